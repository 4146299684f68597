"""What a build is told and what it answers, between the parent and the process that builds."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ..engine.engine_key import EngineKey
from ..engine.manifest import Role, Sha256


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Order(_Message):
    """One engine to build: `graph` for `key`, the plan written to the new file `plan`."""

    key: EngineKey
    role: Role
    graph: Path
    plan: Path


class Outcome(_Message):
    """A finished plan; the fields are those of `EngineRecord`."""

    bytes: int
    sha256: Sha256
    activation_bytes: int
    peak_bytes: int
    layers: dict[str, dict[str, int]]
    log: list[str]
    made_with: dict[str, str]


class Answer(_Message):
    """One line from the building process: how far it is, or how it ended."""

    phase: str | None = None
    done: float = 0.0
    built: Outcome | None = None
    failed: str | None = None
