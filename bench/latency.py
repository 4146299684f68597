"""Latency of whole requests, stage by stage, and how far each stage is from the device's limit."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from ..engine.bundle import Bundle
from ..engine.errors import InvalidInput, LightfillError
from ..engine.sessions.base import ARITHMETIC
from . import cold_start, energy, graph_costs, hardware
from .artefact import Energy, Latency, Picture, Run, StageEntry
from .limits import EDGE, DeviceLimit, gpu_limit, host_limit
from .own_side import EngineOptions, open_side
from .request_stages import STAGES
from .roofline import Floor, device_floors, host_floors
from .spread import Spread
from .workload import Workload

OnPart = Callable[[str], None]
_ON_HOST = {"cpu", "openvino"}
_ADDS_UP_WITHIN = 0.05


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. cold_starts, second_prompts: 0 leaves them out.

    edge: of the matrices whose product gives a processor's limit.
    """

    runs: int = 10
    warmups: int = 3
    cold_starts: int = 3
    second_prompts: int = 3
    edge: int = EDGE


def measure(
    options: EngineOptions,
    workload: Workload,
    plan: Plan,
    picture: Path | None = None,
    on_part: OnPart = lambda _: None,
) -> Latency:
    """Measure one configuration. picture: where the painted picture goes, a PNG.

    Every process runs alone, one after another. Raises LightfillError.
    """
    machine = hardware.describe()  # before this program adds to the load
    bundle = Bundle.open(options.bundle)
    on_part("the device's limits")
    limits = _limits(options, plan.edge)
    cold = None
    if plan.cold_starts:
        on_part("cold starts")
        cold = cold_start.measured(options, workload, plan.cold_starts)
    on_part("requests")
    warm = _requests(options, workload, plan, picture)
    second = None
    if plan.second_prompts:
        on_part("second prompt on the same photo")
        second = _second_prompt(options, workload, plan.second_prompts)
    on_part("the device's limits, again")
    again = _limits(options, plan.edge)
    limits = [first.higher(last) for first, last in zip(limits, again, strict=True)]
    floors = _floors(bundle, options, workload, limits, warm.effective_steps)
    total = Spread.of([run.total for run in warm.runs])
    on_device = [floors[name] for name in graph_costs.COMPONENTS]
    whole = None
    if all(isinstance(floor, Floor) for floor in on_device):
        whole = sum(floor.seconds for floor in floors.values() if isinstance(floor, Floor))
    return Latency(
        created=datetime.now(UTC),
        workload=workload_entry(workload),
        engine=engine_entry(bundle, options, low_memory=warm.low_memory),
        machine=machine,
        warmups=plan.warmups,
        effective_steps=warm.effective_steps,
        runs=warm.runs,
        stages=[_entry(name, warm.runs, floors[name]) for name in STAGES],
        total=total,
        floor_s=whole,
        share=None if whole is None else whole / total.median,
        second_prompt=second,
        cold_start=cold,
        peak_host_bytes=warm.peak_bytes,
        peak_device_bytes=warm.device_bytes,
        device_execution=_device_execution(warm.runs),
        energy=_energy(warm.runs, warm.no_energy),
        limits=limits,
        picture=None if picture is None else _picture(picture),
    )


def discrepancy(runs: Sequence[Run]) -> float:
    """Share of a request's total that its stages leave out, or count twice: the runs' median.

    In a single run another program may get the processor between two clocks.
    """
    return median(abs(sum(run.stages.values()) - run.total) / run.total for run in runs)


@dataclass(frozen=True, kw_only=True)
class _Warm:
    runs: list[Run]
    effective_steps: int
    low_memory: bool
    peak_bytes: int
    device_bytes: int | None
    no_energy: str | None


def _requests(
    options: EngineOptions, workload: Workload, plan: Plan, picture: Path | None
) -> _Warm:
    counters, no_energy = energy.counters()
    runs, steps = [], 0
    with open_side(options, workload, plan.warmups) as side:
        for _ in range(plan.runs):
            before = energy.reading(counters)
            answer = side.run()
            joules = energy.spent(counters, before)
            steps = answer.pop("effective_steps")
            runs.append(Run(**answer, joules=joules))
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            side.save(picture)
        low_memory = side.ready["low_memory"]
        end = side.end()
    if (left := discrepancy(runs)) > _ADDS_UP_WITHIN:
        raise LightfillError(
            f"the stages of a request differ from its total by {100 * left:.1f} %: something that "
            "takes time is in no stage; report this"
        )
    return _Warm(
        runs=runs, effective_steps=steps, low_memory=low_memory,
        peak_bytes=end["peak_bytes"], device_bytes=end["device_bytes"], no_energy=no_energy,
    )  # fmt: skip


def _second_prompt(options: EngineOptions, workload: Workload, times: int) -> Spread:
    """Whole requests whose photo was encoded before, each with a prompt of its own."""
    remembering = EngineOptions(**{**vars(options), "remembers": True})
    with open_side(remembering, workload, warmups=2) as side:
        return Spread.of([side.run()["total"] for _ in range(times)])


def _limits(options: EngineOptions, edge: int) -> list[DeviceLimit]:
    """The host's, then the device's where that is another; one that is not known is left out."""
    found = [host_limit(options.threads, edge)]
    if options.device not in {*_ON_HOST, "null"}:
        try:
            found.append(gpu_limit())
        except LightfillError:
            return found
    return found


def _floors(
    bundle: Bundle,
    options: EngineOptions,
    workload: Workload,
    limits: Sequence[DeviceLimit],
    effective_steps: int,
) -> dict[str, Floor | str]:
    """By stage, or why a stage has none."""
    with Image.open(workload.image) as photo:
        size = photo.size
    found: dict[str, Floor | str] = {
        **host_floors(workload, size, effective_steps, limits[0]),
        "safety": "no checker ran: the bundle has none",
    }
    if options.device == "null":
        return found | dict.fromkeys(graph_costs.COMPONENTS, "the device null computes nothing")
    if options.precision is not None:
        reason = f"the limit that was measured is float32's, which {options.precision} may exceed"
        return found | dict.fromkeys(graph_costs.COMPONENTS, reason)
    try:
        if options.device not in _ON_HOST and len(limits) < 2:
            gpu_limit()  # says why there is none
        costs = graph_costs.of_bundle(
            bundle, ARITHMETIC[options.device], workload.size, workload.steps, workload.batch
        )
        found |= device_floors(costs, limits[-1], effective_steps)
    except LightfillError as error:
        found |= dict.fromkeys(graph_costs.COMPONENTS, str(error))
    return found


def _entry(name: str, runs: Sequence[Run], floor: Floor | str) -> StageEntry:
    seconds = Spread.of([run.stages[name] for run in runs])
    calls = [call for run in runs for call in run.unet_calls] if name == "unet" else []
    per_call = Spread.of(calls) if calls else None
    if isinstance(floor, str):
        return StageEntry(name=name, seconds=seconds, per_call=per_call, reason=floor)
    return StageEntry(
        name=name,
        seconds=seconds,
        per_call=per_call,
        floor_s=floor.seconds,
        unfused_s=floor.unfused,
        bound=floor.bound,
        flops=floor.flops,
        share=floor.seconds / seconds.median if seconds.median else None,
    )


def _device_execution(runs: Sequence[Run]) -> dict[str, Spread]:
    by_component: dict[str, list[float]] = {}
    for each in (each for run in runs for each in run.device):
        by_component.setdefault(each.component, []).append(each.execution_ms / 1000)
    return {component: Spread.of(seconds) for component, seconds in by_component.items()}


def _energy(runs: Sequence[Run], reason: str | None) -> Energy:
    joules = {name: Spread.of([run.joules[name] for run in runs]) for name in runs[0].joules}
    return Energy(joules=joules, reason=reason)


def _picture(path: Path) -> Picture:
    return Picture(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def workload_entry(workload: Workload) -> dict[str, Any]:
    """As an artefact keeps it, files by name and digest: paths mean nothing elsewhere."""
    digests = {
        name: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in (("image", workload.image), ("mask", workload.mask))
    }
    return {**workload.as_json(), **digests}


def engine_entry(
    bundle: Bundle, options: EngineOptions, *, low_memory: bool | None
) -> dict[str, Any]:
    """As an artefact keeps it: which bundle, and how it ran."""
    manifest = bundle.manifest
    return {
        "bundle": manifest.name,
        "checkpoint": manifest.source.checkpoint,
        "weight_bytes": sum(
            manifest.files[part.weights].bytes for part in manifest.components.values()
        ),
        "device": options.device,
        "arithmetic": options.precision or ARITHMETIC[options.device],
        "low_memory": low_memory,
        "threads": options.threads,
    }


def check(options: EngineOptions, workload: Workload) -> None:
    """Raise what the first request would, before anything is started or measured."""
    from ..engine.request import validated
    from ..engine.sessions import SessionOptions, require_device, require_precision

    for name in ("image", "mask"):
        if not getattr(workload, name).is_file():
            raise InvalidInput(name, f"{getattr(workload, name)} is no file; pass a picture's path")
    validated(
        prompt=workload.prompt, image_size=workload.size, steps=workload.steps,
        strength=workload.strength, seed=workload.seed, num_images=workload.batch, fit="crop",
        crop_to_mask=None, feather=8, blend="context", composite=True,
    )  # fmt: skip
    require_device(options.device)
    bundle = Bundle.open(options.bundle)
    unet = bundle.unet(workload.steps).component
    chosen = SessionOptions(precision=options.precision)
    require_precision(bundle, unet, options.device, chosen)
