"""How cost grows: with the picture's size, pictures at a time, steps, and requests at a time."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from typing import Any, Literal, get_args

from ..engine.bundle import Bundle
from ..engine.errors import InvalidInput, LightfillError
from ..engine.request import IMAGE_SIZES, MAX_IMAGES
from . import concurrency, hardware
from .artefact import Point, Sweep
from .latency import OnPart, engine_entry, workload_entry
from .own_side import EngineOptions, open_side
from .spread import Spread
from .workload import Workload

Varies = Literal["image_size", "batch", "steps", "concurrency"]
VARIES: tuple[str, ...] = get_args(Varies)
STEPS = (1, 2, 4, 8)
CLIENTS = (1, 2, 4, 8, 16)
PER_CLIENT = 3
"""Requests of each client; the queue works them off one by one."""


def measure(
    options: EngineOptions,
    workload: Workload,
    varies: str,
    runs: int,
    warmups: int,
    on_part: OnPart = lambda _: None,
) -> Sweep:
    """Measure every value of `varies`, one process after another; what cannot run has a reason."""
    if varies not in VARIES:
        raise InvalidInput("sweep", f"{varies!r} is none; choose {', '.join(VARIES)}")
    machine = hardware.describe()
    points = []
    for label, value, changed in _values(varies, workload):
        on_part(f"{varies} {label}")
        try:
            if varies == "concurrency":
                figures = _queued(options, workload, value)
            else:
                figures = _requests(options, changed, runs, warmups)
            points.append(Point(label=label, value=value, **figures))
        except LightfillError as error:
            points.append(Point(label=label, value=value, reason=str(error)))
    return Sweep(
        created=datetime.now(UTC),
        varies=varies,
        workload=workload_entry(workload),
        engine=engine_entry(Bundle.open(options.bundle), options, low_memory=options.low_memory),
        machine=machine,
        points=points,
    )


def _values(varies: str, workload: Workload) -> Iterator[tuple[str, int, Workload]]:
    """Label, number on the axis, and the workload changed so."""
    if varies == "image_size":
        by_pixels = sorted(IMAGE_SIZES.items(), key=lambda item: (item[1][0] * item[1][1], item[0]))
        for name, size in by_pixels:
            yield f"{name} {size[0]}x{size[1]}", size[0] * size[1], replace(workload, size=size)
    elif varies == "batch":
        for batch in range(1, MAX_IMAGES + 1):
            yield str(batch), batch, replace(workload, batch=batch)
    elif varies == "steps":
        for steps in STEPS:  # at full strength every step runs
            yield str(steps), steps, replace(workload, steps=steps, strength=1.0)
    else:
        for clients in CLIENTS:
            yield str(clients), clients, workload


def _requests(
    options: EngineOptions, workload: Workload, runs: int, warmups: int
) -> dict[str, Any]:
    with open_side(options, workload, warmups) as side:
        answers = [side.run() for _ in range(runs)]
    seconds = Spread.of([answer["total"] for answer in answers])
    stages = {
        name: median(answer["stages"][name] for answer in answers) for name in answers[0]["stages"]
    }
    return {
        "seconds": seconds,
        "per_picture": seconds.median / workload.batch,
        "requests_per_s": 1 / seconds.median,
        "stages": stages,
    }


def _queued(options: EngineOptions, workload: Workload, clients: int) -> dict[str, Any]:
    """Seconds from a submit to its result, waiting included, and results a second of all."""
    found = concurrency.measured(options, workload, clients, PER_CLIENT)
    return {
        "seconds": Spread.of(found["seconds"]),
        "per_picture": found["wall"] / len(found["seconds"]),
        "requests_per_s": len(found["seconds"]) / found["wall"],
    }
