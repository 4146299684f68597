"""What a benchmark writes: a JSON file with everything needed to judge, compare and repeat it.

Times are seconds. What could not be measured is None beside a reason, never 0.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..engine.atomic_write import write_atomically
from ..engine.errors import InvalidInput
from .limits import DeviceLimit
from .spread import Spread


class Section(BaseModel):
    """Frozen, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StageEntry(Section):
    """One stage. seconds: of a whole request; per_call: of each UNet call, in its stage alone.

    floor_s: what it takes at least on this device, with what binds it; share: floor over median.
    unfused_s: the floor if no two operators are fused. reason: why there is no floor.
    """

    name: str
    seconds: Spread
    per_call: Spread | None = None
    floor_s: float | None = None
    unfused_s: float | None = None
    bound: str | None = None
    flops: int | None = None
    share: float | None = None
    reason: str | None = None


class DeviceRun(Section):
    """One run of an engine by the GPU's own clock, CUDA events. Not yet run on a GPU."""

    component: str
    upload_ms: float
    execution_ms: float
    download_ms: float


class Run(Section):
    """One request as it was measured."""

    total: float
    stages: dict[str, float]
    unet_calls: list[float]
    device: list[DeviceRun] = []
    """On "tensorrt" and "rtx", every engine's run in order."""
    joules: dict[str, float] = {}


class ColdStart(Section):
    """Fresh processes of `lightfill inpaint`, files in the system's cache: to the picture on disk.

    before: everything but the request itself: Python, imports, reading and preparing the model.
    """

    seconds: Spread
    before: Spread
    peak_bytes: int


class Energy(Section):
    """Joules of a request by counter, or why there are none."""

    joules: dict[str, Spread]
    reason: str | None


class Picture(Section):
    """The last request's first picture, in a file beside the artefact."""

    file: str
    sha256: str


class PeerResult(Section):
    """A peer in the same run. ratios: its seconds over ours, pair by pair: above 1 we are faster.

    together: whether both stayed loaded and took turns request by request, or were loaded in turns.
    psnr_db: its picture against ours painted with its rules, which proves that the work is the
    same. reason: why it has no figures.
    """

    name: str
    reason: str | None = None
    seconds: Spread | None = None
    ours: Spread | None = None
    ratios: Spread | None = None
    together: bool | None = None
    peak_bytes: int | None = None
    psnr_db: float | None = None
    load_s: float | None = None
    versions: dict[str, str] = {}
    note: str | None = None


class Latency(Section):
    """`lightfill bench`: one configuration, measured."""

    schema_version: Literal[1] = 1
    kind: Literal["latency"] = "latency"
    created: datetime
    workload: dict[str, Any]
    engine: dict[str, Any]
    machine: dict[str, Any]
    warmups: int
    effective_steps: int
    runs: list[Run]
    stages: list[StageEntry]
    total: Spread
    floor_s: float | None
    share: float | None
    second_prompt: Spread | None
    cold_start: ColdStart | None
    peak_host_bytes: int
    peak_device_bytes: int | None
    device_execution: dict[str, Spread]
    """Seconds of each component's execution by CUDA events; empty on devices without engines."""
    energy: Energy
    limits: list[DeviceLimit]
    picture: Picture | None
    peers: list[PeerResult] = []


class Point(Section):
    """One value of what a sweep varies. reason: why it has no figures."""

    label: str
    value: float
    seconds: Spread | None = None
    per_picture: float | None = None
    requests_per_s: float | None = None
    stages: dict[str, float] = {}
    reason: str | None = None


class Sweep(Section):
    """`lightfill bench --sweep`: how cost grows with one thing."""

    schema_version: Literal[1] = 1
    kind: Literal["sweep"] = "sweep"
    created: datetime
    varies: str
    workload: dict[str, Any]
    engine: dict[str, Any]
    machine: dict[str, Any]
    points: list[Point]


Kind = TypeVar("Kind", Latency, Sweep)


def write(path: Path, artefact: BaseModel) -> None:
    """Whole or not at all."""
    content = json.loads(artefact.model_dump_json())
    try:
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise InvalidInput(
            "json", f"{path} cannot be written: {error.strerror}; choose another path"
        ) from error


def read(path: Path, kind: type[Kind]) -> Kind:
    """An artefact of this kind; InvalidInput if the file is none."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(
            "compare", f"{path} cannot be read: {error.strerror}; check the path"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidInput(
            "compare",
            f"{path} is no {kind.__name__.lower()} benchmark of this version ({place}: "
            f"{first['msg']}); measure it again with `lightfill bench --json`",
        ) from error
