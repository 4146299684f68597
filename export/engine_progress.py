"""What a build of engines tells while it runs and when it is done."""

from dataclasses import dataclass
from pathlib import Path

from ..engine.engine_key import EngineKey
from ..engine.engine_record import EngineRecord


@dataclass(frozen=True)
class PlannedEngine:
    """One engine to have.

    graph: its ONNX file. plan: where it lies, or will. built: whether it does. estimated_bytes:
    of disk, from the weights' size.
    """

    key: EngineKey
    graph: Path
    plan: Path
    built: bool
    estimated_bytes: int

    @property
    def label(self) -> str:
        """Component, size, batch and GPU, for people."""
        pixels = self.key.pixels
        words = [self.key.component]
        words += [] if pixels is None else ["{}x{}".format(*pixels)]
        batch = self.key.sizes.get("batch", 1)
        words += [] if batch == 1 else [f"batch {batch}"]
        return " ".join([*words, *self.key.targets])


@dataclass(frozen=True)
class EngineReport:
    """One engine's outcome; `made`: by this run, else it was there."""

    engine: PlannedEngine
    record: EngineRecord
    made: bool


class BuildProgress:
    """Told what happens, from several threads; this one tells nobody."""

    def begin(self, engine: PlannedEngine) -> None:
        """An engine is about to be built."""

    def phase(self, engine: PlannedEngine, what: str, done: float) -> None:
        """What it is at, and the share (0..1) that TensorRT says is done."""

    def end(self, report: EngineReport) -> None:
        """An engine is complete, or was already."""
