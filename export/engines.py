"""`lightfill build`: which engines a bundle needs, and having them built.

No PyTorch here, and nothing of TensorRT either: what is built already is found by its key in
milliseconds, and every build is a process of its own (`export.engine_build`).
"""

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..engine.bundle import Bundle
from ..engine.engine_key import EngineKey, Flavour, is_built, sizes_for
from ..engine.engine_record import EngineRecord, StoredEngine
from ..engine.engine_store import RECORD, EngineStore
from ..engine.errors import BuildFailed, Cancelled
from .engine_order import Order, Outcome
from .engine_progress import BuildProgress, EngineReport, PlannedEngine

FLAGS = ("STRONGLY_TYPED", "NO_TF32", "PROFILING_DETAILED")
"""How `export.engine_build` builds whatever it builds; another way needs another name here."""

_PLAN_PER_WEIGHT = 1.05
_PLAN_WITHOUT_WEIGHTS = 32 << 20
"""A full-size UNet's plan was 1.01 times its weights; the demo's add 2 to 20 MB of kernels."""


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build.

    sizes: (width, height) in pixels. batches: pictures per UNet call. targets: as
    `EngineKey.targets` spells them; each gets engines of its own, which keeps plans small and says
    what they are for by where they lie. steps, components: None for all the bundle has.
    device_index: the GPU of this machine that TensorRT builds on; TensorRT-RTX needs none.
    """

    bundle: Bundle
    flavour: Flavour
    version: str
    targets: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    batches: Sequence[int] = (1,)
    steps: Sequence[int] | None = None
    components: Sequence[str] | None = None
    optimization_level: int | None = None
    workspace_bytes: int | None = None
    jobs: int = 1
    device_index: int = 0
    engines: Path | None = None

    @property
    def store(self) -> EngineStore:
        """Where they go."""
        return EngineStore.of(self.bundle, self.engines)


def planned(request: BuildRequest) -> list[PlannedEngine]:
    """Every engine of the request, once, those that lie there already included.

    Raises ComponentMissing for step counts, components or float16 graphs the bundle lacks.
    """
    store = request.store
    engines = {}
    for key in _keys(request):
        component = request.bundle.component(key.component)
        weights = request.bundle.manifest.files[component.weights].bytes
        found = store.find(key)
        engines[key.digest] = PlannedEngine(
            key=key,
            graph=request.bundle.graph(key.component, "float16"),
            plan=store.path(key),
            built=found is not None and found.problem is None,
            estimated_bytes=int(_PLAN_PER_WEIGHT * weights) + _PLAN_WITHOUT_WEIGHTS,
        )
    return list(engines.values())


def build_engines(
    request: BuildRequest, progress: BuildProgress | None = None
) -> list[EngineReport]:
    """Build what is missing, `jobs` at a time, in the order of `planned`.

    Raises BuildFailed (no room, no permission, or a build's own reason), with what was finished
    before kept. Ended from outside, it ends its builders and leaves nothing half written.
    """
    engines = planned(request)
    if all(engine.built for engine in engines):
        return [_report(request.store, engine, made=False) for engine in engines]
    require_space(request.store.root, engines)
    return _Builds(request, progress or BuildProgress()).run(engines)


def require_space(root: Path, engines: Sequence[PlannedEngine]) -> None:
    """Raise BuildFailed unless the store can be written and has room for what is missing."""
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise BuildFailed(
            f"{root} cannot be written; choose another directory with --engines DIR "
            "(engines=DIR in Python)"
        )
    missing = [engine for engine in engines if not engine.built]
    needed = sum(engine.estimated_bytes for engine in missing)
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise BuildFailed(
            f"building {len(missing)} of {len(engines)} engines takes about {needed / 1e9:.2f} GB "
            f"and {existing} has {free / 1e9:.2f} GB free; free some, build fewer sizes, or choose "
            "another disk with --engines DIR"
        )


class _Builds:
    """One run of `build_engines`: a thread per job, each waiting for a process."""

    def __init__(self, request: BuildRequest, progress: BuildProgress) -> None:
        from .engine_process import Builders

        self._request = request
        self._store = request.store
        self._progress = progress
        self._builders = Builders(request.device_index)

    def run(self, engines: Sequence[PlannedEngine]) -> list[EngineReport]:
        """Every engine's report, in their order; the first failure ends the other builds."""
        with ThreadPoolExecutor(self._request.jobs, "engine") as threads:
            futures = [threads.submit(self._have, engine) for engine in engines]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # all are done, one failed, or Ctrl-C
                self._builders.stop()
                for future in futures:
                    future.cancel()
        failures = [each.exception() for each in futures if not each.cancelled()]
        reasons = [error for error in failures if error and not isinstance(error, Cancelled)]
        if reasons:
            raise reasons[0]
        return [future.result() for future in futures]

    def _have(self, engine: PlannedEngine) -> EngineReport:
        try:
            return self._built_or_found(engine)
        except BaseException:
            self._builders.stop()  # before this thread takes up the next engine
            raise

    def _built_or_found(self, engine: PlannedEngine) -> EngineReport:
        if engine.built:
            report = _report(self._store, engine, made=False)
        else:
            self._progress.begin(engine)
            try:
                report = _report(self._store, engine, made=self._built_by_us(engine))
            except OSError as error:
                raise BuildFailed(
                    f"{engine.label}: {error.filename or engine.plan} cannot be written "
                    f"({error.strerror}); free some space, or choose another disk with --engines "
                    "DIR"
                ) from error
        self._progress.end(report)
        return report

    def _built_by_us(self, engine: PlannedEngine) -> bool:
        """Build an engine under its lock, unless another process has meanwhile."""
        from .engine_lock import engine_lock

        def on_wait() -> None:
            self._progress.phase(engine, "another process is building it", 0.0)

        with engine_lock(engine.plan, self._store.root, self._builders.stopped, on_wait):
            found = self._store.find(engine.key)
            if found is not None and found.problem is None:
                return False
            self._build(engine)
            return True

    def _build(self, engine: PlannedEngine) -> None:
        """The plan takes its place whole, and after it the record."""
        from .engine_lock import partial_path

        plan, record = (partial_path(engine.plan, uuid.uuid4().hex) for _ in range(2))
        role = self._request.bundle.component(engine.key.component).role
        order = Order(key=engine.key, role=role, graph=engine.graph, plan=plan)
        start = time.perf_counter()
        try:
            outcome = self._builders.run(
                order, lambda phase, done: self._progress.phase(engine, phase, done)
            )
        except BuildFailed as error:
            raise BuildFailed(f"{engine.label}: {error}") from error
        made = _recorded(engine.key, outcome, time.perf_counter() - start)
        _write_synced(record, made.model_dump_json(indent=1).encode() + b"\n")
        place = engine.plan.with_suffix(RECORD)
        place.unlink(missing_ok=True)  # of a damaged plan, which this one replaces
        plan.replace(engine.plan)
        record.replace(place)


def _keys(request: BuildRequest) -> Iterator[EngineKey]:
    manifest = request.bundle.manifest
    for name in _components(request):
        component = request.bundle.component(name)
        graph = request.bundle.graph(name, "float16").relative_to(request.bundle.root).as_posix()
        for target in request.targets:
            for width, height in request.sizes:
                for batch in request.batches:
                    yield EngineKey(
                        component=name,
                        graph_sha256=manifest.files[graph].sha256,
                        weights_sha256=manifest.files[component.weights].sha256,
                        flavour=request.flavour,
                        version=request.version,
                        targets=(target,),
                        sizes=sizes_for(component.role, width, height, batch),
                        flags=FLAGS,
                        optimization_level=request.optimization_level,
                        workspace_bytes=request.workspace_bytes,
                    )


def _components(request: BuildRequest) -> list[str]:
    """Those asked for, or everything a picture needs: UNets last, they take longest."""
    components = request.bundle.manifest.components
    steps = request.bundle.manifest.steps if request.steps is None else request.steps
    unets = {request.bundle.unet(count).component: None for count in sorted(steps)}
    if request.components is not None:
        return list(request.components)
    others = [
        name for name, part in components.items() if part.role != "unet" and is_built(part.role)
    ]
    return [*others, *unets]


def _recorded(key: EngineKey, outcome: Outcome, seconds: float) -> EngineRecord:
    return EngineRecord(
        key=key,
        digest=key.digest,
        seconds=round(seconds, 2),
        made=datetime.now(UTC),
        **outcome.model_dump(),
    )


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _report(store: EngineStore, engine: PlannedEngine, *, made: bool) -> EngineReport:
    found: StoredEngine | None = store.find(engine.key)
    if found is None or found.record is None or found.problem:
        raise BuildFailed(
            f"{engine.label}: {engine.plan} was removed while this ran; run the command again"
        )
    return EngineReport(engine, found.record, made)
