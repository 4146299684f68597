"""One engine on disk and what is known of it: the record beside its plan, and the runtime here."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from .engine_key import EngineKey, Flavour, this_platform
from .manifest import Sha256


class EngineRecord(BaseModel):
    """The JSON file beside a plan, written after it: a plan without one is never loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: EngineKey
    digest: Sha256
    """The key's, so that an edited record is noticed."""
    bytes: int = Field(gt=0)
    """Length of the plan."""
    sha256: Sha256
    """Of the plan."""
    activation_bytes: int = Field(ge=0)
    """Device memory that one execution context needs; 0 where nothing could tell."""
    seconds: float = Field(ge=0)
    peak_bytes: int = Field(ge=0)
    """The largest resident memory of the process that built it."""
    layers: dict[str, dict[str, int]] = {}
    """Of the parsed network: how many layers of each kind compute in which precision."""
    log: list[str] = []
    """What TensorRT warned of."""
    made_with: dict[str, str] = {}
    made: AwareDatetime


@dataclass(frozen=True)
class StoredEngine:
    """A plan in the store.

    record: None if it cannot be read. problem: why it cannot be used as it lies there, on any
    machine; None if it can.
    """

    plan: Path
    record: EngineRecord | None
    problem: str | None

    @property
    def made(self) -> datetime:
        """When it was built; engines without a record sort first."""
        return self.record.made if self.record else datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Runtime:
    """What this process can load. target: "sm89"; device_name: as the driver calls the GPU.

    device_index: its number in this machine.
    """

    flavour: Flavour
    version: str
    target: str
    device_name: str
    platform: str = field(default_factory=this_platform)
    device_index: int = 0

    @property
    def key_target(self) -> str:
        """How keys of this flavour spell the GPU."""
        return self.target if self.flavour == "rtx" else f"{self.target} {self.device_name}"

    def refuses(self, key: EngineKey) -> str | None:
        """Why an engine of that key cannot be loaded here, or None."""
        if key.flavour != self.flavour:
            return f"built for the device {key.flavour}, not {self.flavour}"
        if key.version != self.version:
            return f"built by TensorRT {key.version}, installed is {self.version}"
        if key.platform != self.platform:
            return f"built on {key.platform}, this is {self.platform}"
        if self.key_target not in key.targets:
            return f"built for {', '.join(key.targets)}, this GPU is {self.key_target}"
        return None
