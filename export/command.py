"""`lightfill export`: options to a request, progress and results on the screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table

from ..engine.errors import ExportError
from ..engine.manifest import Arithmetic
from ..scheduler import Prediction
from .bundle_writer import export_bundle
from .lora import Lora
from .progress import ComponentReport, ExportReport, Progress
from .request import ExportRequest, Synthetic

_PRECISIONS: Mapping[str, Arithmetic] = {"fp16": "float16", "fp32": "float32"}


def export_from_command_line(
    *,
    out: Path,
    steps: str,
    unet: Sequence[str],
    prediction: Sequence[str],
    lora: Sequence[str],
    dtype: str,
    arithmetic: Sequence[str],
    synthetic: str | None,
    screen: Console,
    **options: Any,
) -> ExportReport:
    """Check the options, export with a bar per component, and print what was made and verified."""
    weights = _PRECISIONS[_one_of("--dtype", dtype, *_PRECISIONS)]
    default = ["float32"] if weights == "float32" else ["float32", "float16"]
    request = ExportRequest(
        out=out,
        steps=_steps(steps),
        unets=_by_steps("--unet", unet),
        predictions={
            count: _one_of("--prediction", kind, *Prediction)
            for count, kind in _by_steps("--prediction", prediction).items()
        },
        loras=tuple(Lora.parse(given) for given in lora),
        weights=weights,
        arithmetics=[
            _one_of("--arithmetic", kind, *get_args(Arithmetic)) for kind in arithmetic or default
        ],
        synthetic=None
        if synthetic is None
        else _one_of("--synthetic", synthetic, *get_args(Synthetic)),
        **options,
    )
    with _Screen(screen) as progress:
        report = export_bundle(request, progress)
    screen.print(summary(report))
    return report


def summary(report: ExportReport) -> Table:
    """What each component cost and how far it is from PyTorch."""
    table = Table(
        Column("component", no_wrap=True), "weights", "time", "peak memory", "graph",
        "worst error", "PSNR", "passed", box=None,
    )  # fmt: skip
    for part in report.components:
        cost = (
            (f"{part.seconds:.0f} s", f"{part.peak_bytes / 1e9:.2f} GB")
            if part.made
            else ("was there", "")
        )
        first = (part.name, f"{part.bytes / 1e6:.1f} MB", *cost)
        rows = _worst(part)
        for row in rows or [("not verified", "", "", "")]:
            table.add_row(*first, *row)
            first = ("", "", "", "")
    return table


def _worst(part: ComponentReport) -> list[tuple[str, str, str, str]]:
    rows = []
    for arithmetic in get_args(Arithmetic):
        found = [each for each in part.verification if each.arithmetic == arithmetic]
        if found:
            error = max(each.max_abs_error for each in found)
            psnr = min(each.psnr_db for each in found)
            passed = all(each.passed for each in found)
            rows.append((arithmetic, f"{error:.2g}", f"{psnr:.1f} dB", "yes" if passed else "NO"))
    return rows


class _Screen(Progress):
    """One bar per component: bytes of weights written, and what is being done."""

    def __init__(self, screen: Console) -> None:
        self._tasks: dict[str, Any] = {}
        self._bars = Bars(
            TextColumn("{task.fields[component]}"),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=screen,
            disable=not screen.is_terminal,
        )

    def __enter__(self) -> "_Screen":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, name: str, total_bytes: int) -> None:
        self._tasks[name] = self._bars.add_task("", total=total_bytes, component=name)

    def stage(self, name: str, what: str) -> None:
        self._bars.update(self._tasks[name], description=what)

    def advance(self, name: str, written_bytes: int) -> None:
        self._bars.advance(self._tasks[name], written_bytes)

    def end(self, report: ComponentReport) -> None:
        if report.name not in self._tasks:
            self._tasks[report.name] = self._bars.add_task(
                "", total=report.bytes, component=report.name
            )
        cost = f"peak {report.peak_bytes / 1e9:.2f} GB" if report.made else "was there"
        self._bars.update(
            self._tasks[report.name], total=report.bytes, completed=report.bytes, description=cost
        )
        self._bars.stop_task(self._tasks[report.name])


def _steps(text: str) -> list[int]:
    try:
        return sorted({int(count) for count in text.split(",")})
    except ValueError:
        raise ExportError(f"--steps {text!r} is no list of numbers; write it as 1,2,4,8") from None


def _by_steps(option: str, given: Sequence[str]) -> dict[int | None, str]:
    """Each `[STEPS=]VALUE` by its step count, None for all the others."""
    found: dict[int | None, str] = {}
    for text in given:
        steps, equals, value = text.partition("=")
        count = int(steps) if equals and steps.strip().isdecimal() else None
        value = text if count is None else value
        if not value:
            raise ExportError(f"{option} {text!r} names nothing; write {option} 4=VALUE")
        if count in found:
            whose = "all step counts not named" if count is None else f"{count} steps"
            raise ExportError(
                f"{option} says {found[count]!r} and {value!r} for {whose}; leave one out"
            )
        found[count] = value
    return found


def _one_of(option: str, text: str, *known: Any) -> Any:
    """The one of `known`, strings all, that was written."""
    if text not in known:
        raise ExportError(f"{option} {text!r} is not known; pass {' or '.join(known)}")
    return known[known.index(text)]
