"""What an export tells while it runs and when it is done."""

from dataclasses import dataclass
from pathlib import Path

from ..engine.manifest import Verification


@dataclass(frozen=True)
class ComponentReport:
    """One component's outcome.

    bytes: its weights on disk. made: by this run; else it was there, and seconds and peak_bytes
    (resident memory) are 0.
    """

    name: str
    bytes: int
    verification: tuple[Verification, ...]
    made: bool = False
    seconds: float = 0.0
    peak_bytes: int = 0
    parsed_by_tensorrt_rtx: bool = False


@dataclass(frozen=True)
class ExportReport:
    """A finished export."""

    out: Path
    components: tuple[ComponentReport, ...]

    @property
    def peak_bytes(self) -> int:
        """The largest resident memory while any component was made."""
        return max((component.peak_bytes for component in self.components), default=0)


class Progress:
    """Told what happens; this one tells nobody."""

    def begin(self, name: str, total_bytes: int) -> None:
        """A component is about to be made; `total_bytes` of weights will be written."""

    def stage(self, name: str, what: str) -> None:
        """What it is at: "tracing float16", "writing weights", "verifying" ..."""

    def advance(self, name: str, written_bytes: int) -> None:
        """Weights were written."""

    def end(self, report: ComponentReport) -> None:
        """A component is complete, or was already."""
