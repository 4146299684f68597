"""UNets in int8 beside their bundle: found by what they were made from, checked before they load.

    BUNDLE/int8/unet-4step-0123456789ab.xml     the network, in OpenVINO's own format
    BUNDLE/int8/unet-4step-0123456789ab.bin     its weights, one byte each
    BUNDLE/int8/unet-4step-0123456789ab.json    what it was made from, and how far its pictures are

The record goes first and comes last, so what has a record is whole. The digits are those of the
float32 graph and its weights: another UNet under the same name is not mistaken for this one.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from .atomic_write import write_atomically
from .bundle import Bundle
from .errors import BundleCorrupt, ComponentMissing
from .manifest import FileEntry

NETWORK, WEIGHTS, RECORD = ".xml", ".bin", ".json"


class QuantizedRecord(BaseModel):
    """What is known of one quantized UNet.

    step_psnr_db: by timestep, the median over held-out requests of how near each prediction is to
        float32's for the same inputs. picture_psnr_db: the same for whole pictures, each painted
        in its own arithmetic from noise to pixels, inside the mask; the worst of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    component: str
    files: dict[str, FileEntry]
    made_with: dict[str, str]
    size: tuple[int, int]
    calibrated_on: int
    measured_on: int
    step_psnr_db: dict[str, float]
    picture_psnr_db: float


@dataclass(frozen=True)
class QuantizedStore:
    """The quantized UNets of one bundle."""

    bundle: Bundle

    def path(self, component: str) -> Path:
        """Where the network of a UNet lies, or will."""
        entry = self.bundle.component(component)
        made_from = [
            self.bundle.manifest.files[file].sha256
            for file in (entry.graphs.get("float32"), entry.weights)
            if file is not None
        ]
        digest = hashlib.sha256("".join(made_from).encode()).hexdigest()[:12]
        return self.bundle.root / "int8" / f"{component}-{digest}{NETWORK}"

    def record(self, component: str) -> QuantizedRecord | None:
        """What is known of a UNet's network; None if there is none, or no finished one.

        Raises BundleCorrupt for a record that is malformed or files of another length.
        """
        network = self.path(component)
        try:
            text = network.with_suffix(RECORD).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._corrupt(network, f"its record cannot be read ({error.strerror})") from error
        try:
            record = QuantizedRecord.model_validate_json(text)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise self._corrupt(network, f"its record is malformed ({reason})") from None
        for name, entry in record.files.items():
            path = network.with_name(name)
            if not path.is_file() or path.stat().st_size != entry.bytes:
                raise self._corrupt(network, f"{name} is missing or of another length")
        return record

    def require(self, component: str) -> QuantizedRecord:
        """The record of a UNet whose files have the right lengths; else the command to make it.

        Raises ComponentMissing or BundleCorrupt.
        """
        record = self.record(component)
        if record is None:
            raise ComponentMissing(
                f"bundle {self.bundle.manifest.name!r} has no int8 {component}; make it with "
                f"`{self.command()}`, or leave the precision out"
            )
        return record

    def checked(self, component: str) -> Path:
        """The network of a UNet, after every byte was read: once by this process, if unchanged."""
        network = self.path(component)
        for name, entry in self.require(component).files.items():
            if _entry(network.with_name(name)) != entry:
                raise self._corrupt(network, f"{name} differs from its record")
        return network

    def keep(self, component: str, network: Path, record: Mapping[str, object]) -> QuantizedRecord:
        """Move a network and its weights, written elsewhere on this disk, into their place."""
        place = self.path(component)
        place.with_suffix(RECORD).unlink(missing_ok=True)
        files = {}
        for suffix in (NETWORK, WEIGHTS):
            files[place.with_suffix(suffix).name] = _entry(network.with_suffix(suffix))
            network.with_suffix(suffix).replace(place.with_suffix(suffix))
        whole = QuantizedRecord.model_validate({**record, "component": component, "files": files})
        text = json.dumps(whole.model_dump(), indent=1)
        write_atomically(place.with_suffix(RECORD), f"{text}\n".encode())
        return whole

    def command(self) -> str:
        """What makes the networks of this bundle."""
        return f"lightfill quantize {shlex.quote(str(self.bundle.root))}"

    def _corrupt(self, network: Path, reason: str) -> BundleCorrupt:
        return BundleCorrupt(
            f"{network} cannot be used: {reason}; make it again with `{self.command()}`"
        )


def _entry(path: Path) -> FileEntry:
    stat = path.stat()
    return FileEntry(bytes=stat.st_size, sha256=_sha256(path, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified_ns: int) -> str:  # noqa: ARG001 - what tells a change
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
