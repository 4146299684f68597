"""Plots of artefacts as SVG files, with matplotlib."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from ..engine.atomic_write import write_atomically
from ..engine.errors import LightfillError
from .artefact import Latency, Sweep
from .report import NAMES

_GREY, _BLUE = "#b0b8c0", "#2b6cb0"


def require_matplotlib() -> None:
    """Raise LightfillError where it is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise LightfillError(
            f"plots need matplotlib ({error}); `pip install 'lightfill[bench]'`"
        ) from error


def latency(found: Latency, directory: Path, stem: str) -> list[Path]:
    """Stages with their floors; peers, if there are any."""
    paths = [_stages(found, directory / f"{stem}-stages.svg")]
    if any(peer.ratios for peer in found.peers):
        paths.append(_peers(found, directory / f"{stem}-peers.svg"))
    return paths


def sweep(found: Sweep, directory: Path, stem: str) -> list[Path]:
    """Time against what varies."""
    points = [point for point in found.points if point.seconds]
    path = directory / f"{stem}.svg"
    with _figure(path) as axes:
        values = [point.value for point in points]
        medians = [point.seconds.median * 1000 for point in points if point.seconds]
        p90s = [point.seconds.p90 * 1000 for point in points if point.seconds]
        axes.plot(values, medians, "o-", color=_BLUE, label="median of a request")
        axes.plot(values, p90s, "o:", color=_GREY, label="p90")
        if found.varies == "batch":
            each = [point.per_picture * 1000 for point in points if point.per_picture]
            axes.plot(values, each, "s--", color="#c05621", label="a picture")
        axes.set_xticks(values, [point.label for point in points], rotation=30, ha="right")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(found.varies)
        axes.set_ylabel("milliseconds")
        axes.set_title(_title(found))
        axes.legend(frameon=False)
    return [path]


def _stages(found: Latency, path: Path) -> Path:
    stages = [stage for stage in reversed(found.stages) if stage.seconds.median > 0]
    with _figure(path) as axes:
        rows = range(len(stages))
        medians = [stage.seconds.median * 1000 for stage in stages]
        floors = [(stage.floor_s or 0) * 1000 for stage in stages]
        axes.barh(rows, medians, color=_GREY, label="median")
        axes.barh(rows, floors, color=_BLUE, height=0.4, label="at least, on this device")
        axes.set_yticks(rows, [NAMES[stage.name] for stage in stages])
        axes.set_xlabel("milliseconds")
        axes.set_title(_title(found))
        axes.legend(frameon=False)
    return path


def _peers(found: Latency, path: Path) -> Path:
    ran = [peer for peer in reversed(found.peers) if peer.ratios]
    with _figure(path) as axes:
        ratios = [peer.ratios for peer in ran if peer.ratios]
        rows = range(len(ran))
        medians = [ratio.median for ratio in ratios]
        around = [
            [ratio.median - ratio.least for ratio in ratios],
            [ratio.most - ratio.median for ratio in ratios],
        ]
        axes.barh(rows, medians, xerr=around, color=_GREY, ecolor=_BLUE)
        axes.axvline(1, color=_BLUE)
        axes.set_yticks(rows, [peer.name for peer in ran])
        axes.set_xlabel("times lightfill's time (least, median, most of the pairs)")
        axes.set_title(_title(found))
    return path


def _title(found: Latency | Sweep) -> str:
    engine = found.engine
    return f"{engine['bundle']} on {engine['device']}, {found.machine['machine']}"


@contextmanager
def _figure(path: Path) -> Iterator[Any]:
    """Axes to draw on, written to `path` at the end; no display is needed."""
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Equal figures give equal files: no random ids, no date.
    with rc_context({"svg.hashsalt": "lightfill", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        yield axes
        drawn = BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_atomically(path, drawn.getvalue())
