"""`lightfill build`: options to a request, bars while it runs, and what was built."""

import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from ..engine.bundle import Bundle
from ..engine.checks import step_counts, whole_number
from ..engine.errors import InvalidInput
from .engine_progress import BuildProgress, EngineReport, PlannedEngine
from .engine_targets import chosen_flavour, chosen_targets, require_tools
from .engines import BuildRequest, build_engines, planned

MAX_BATCH = 8
_MOST_JOBS = _MOST_DEVICES = 64
_BYTES = re.compile(r"(\d{1,15})([KMGT]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def build_from_command_line(
    *,
    bundle: Path,
    sizes: Sequence[tuple[int, int]],
    steps: str | None,
    batch: Sequence[int],
    device: str | None,
    gpu: str | None,
    device_index: int,
    optimization_level: int | None,
    workspace: str | None,
    jobs: int,
    engines: Path | None,
    dry_run: bool,
    screen: Console,
) -> None:
    """Check the options, build with a bar per engine, and print what each took."""
    request = _request(
        bundle, sizes=sizes, steps=steps, batch=batch, device=device, gpu=gpu,
        device_index=device_index,
        optimization_level=optimization_level, workspace=workspace, jobs=jobs, engines=engines,
    )  # fmt: skip
    plan = planned(request)
    if dry_run:
        out = Console()
        out.print(_intended(plan))
        out.print(_totals(request, plan), markup=False, highlight=False, soft_wrap=True)
        return
    if not all(engine.built for engine in plan):
        require_tools()
    with _ended_by_sigterm(), _Screen(screen) as progress:
        reports = build_engines(request, progress)
    screen.print(summary(reports))


def summary(reports: Sequence[EngineReport]) -> Table:
    """What each engine took to build and takes to keep."""
    table = Table(
        Column("engine", no_wrap=True), "plan", "activations", "time", "peak memory", box=None
    )
    for report in reports:
        record = report.record
        cost = (
            (f"{record.seconds:.0f} s", f"{record.peak_bytes / 1e9:.2f} GB")
            if report.made
            else ("was there", "")
        )
        table.add_row(
            report.engine.label, f"{record.bytes / 1e6:.1f} MB",
            f"{record.activation_bytes / 1e6:.1f} MB", *cost,
        )  # fmt: skip
    return table


def _request(bundle: Path, **options: Any) -> BuildRequest:
    level = options["optimization_level"]
    if level is not None:
        level = whole_number("optimization_level", level, 0, 5)
    jobs = whole_number("jobs", options["jobs"], 1, _MOST_JOBS)
    index = whole_number("device_index", options["device_index"], 0, _MOST_DEVICES - 1)
    batches = [whole_number("batch", each, 1, MAX_BATCH) for each in options["batch"]]
    steps = None if options["steps"] is None else step_counts(options["steps"])
    workspace = None if options["workspace"] is None else _bytes(options["workspace"])
    opened = Bundle.open(bundle)
    flavour, version = chosen_flavour(options["device"])
    if flavour == "tensorrt" and jobs > 1:
        raise InvalidInput(
            "jobs", "TensorRT times kernels on the GPU, which several builds would disturb; use 1"
        )
    return BuildRequest(
        bundle=opened, flavour=flavour, version=version,
        targets=chosen_targets(flavour, options["gpu"], index), device_index=index,
        sizes=options["sizes"], batches=batches,
        steps=steps, optimization_level=level, workspace_bytes=workspace, jobs=jobs,
        engines=options["engines"],
    )  # fmt: skip


def _intended(plan: Sequence[PlannedEngine]) -> Table:
    table = Table(Column("engine", no_wrap=True), "plan", box=None)
    for engine in plan:
        size = f"about {engine.estimated_bytes / 1e6:.0f} MB"
        table.add_row(engine.label, "built" if engine.built else size)
    return table


def _totals(request: BuildRequest, plan: Sequence[PlannedEngine]) -> str:
    root = request.store.root
    missing = [engine for engine in plan if not engine.built]
    needed = sum(engine.estimated_bytes for engine in missing)
    existing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return (
        f"{len(missing)} of {len(plan)} engines to build, about {needed / 1e9:.2f} GB; "
        f"{root} has {free / 1e9:.1f} GB free"
    )


def _bytes(text: str) -> int:
    match = _BYTES.fullmatch(text)
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not 0 < size < 1 << 63:
        raise InvalidInput("workspace", f"{text!r} is no amount of memory; write it as 4G or 512M")
    return size


class _Screen(BuildProgress):
    """One bar per engine; TensorRT's phases tell how far it is. Off a terminal, a line each."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.fields[engine]}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=screen,
            disable=not screen.is_terminal,
            transient=True,
        )

    def __enter__(self) -> "_Screen":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, engine: PlannedEngine) -> None:
        self._tasks[engine.key.digest] = self._bars.add_task("", total=1.0, engine=engine.label)
        if not self._screen.is_terminal:
            self._screen.print(f"building {engine.label}", markup=False, highlight=False)

    def phase(self, engine: PlannedEngine, what: str, done: float) -> None:
        self._bars.update(self._tasks[engine.key.digest], description=what, completed=done)

    def end(self, report: EngineReport) -> None:
        task = self._tasks.get(report.engine.key.digest)
        if task is not None:
            self._bars.update(task, description="built", completed=1.0)
            self._bars.stop_task(task)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM end a build as Ctrl-C does, with nothing left behind."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
