"""One request, from files to a file's bytes, and where its time went."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from ..engine.images import encode
from ..engine.pipeline import Inpainter
from ..engine.result import Result, Timings
from .workload import Workload

STAGES = (
    "fetch",
    "prepare",
    "text",
    "vae_encode",
    "unet",
    "vae_decode",
    "composite",
    "safety",
    "encode",
    "overhead",
)
"""In the order they run; `overhead` is the host's part of the denoise loop: noise, blending, Euler.

Each has a clock of its own, so that time which is in none of them shows: their sum falls short.
"""


@dataclass(frozen=True)
class TimedRequest:
    """A request's seconds: `total` by one clock around all of it, `stages` by clocks inside.

    stages: by name of `STAGES`; "unet" is all its calls together. unet_calls: each of them.
    """

    total: float
    stages: Mapping[str, float]
    unet_calls: tuple[float, ...]
    result: Result


def timed_request(inpainter: Inpainter, workload: Workload, **changes: object) -> TimedRequest:
    """Read the files, inpaint, encode all pictures as JPEGs. `changes`: of Inpainter's options."""
    start = time.perf_counter()
    photo, mask = workload.image.read_bytes(), workload.mask.read_bytes()
    fetched = time.perf_counter()
    options = {
        "image_size": workload.size,
        "steps": workload.steps,
        "strength": workload.strength,
        "seed": workload.seed,
        "num_images": workload.batch,
        **changes,
    }
    result = inpainter(photo, mask, workload.prompt, **options)  # type: ignore[arg-type]
    painted = time.perf_counter()
    for image in result.images:
        encode(image, "jpeg")
    end = time.perf_counter()
    stages = {"fetch": fetched - start, **_inside(result.timings), "encode": end - painted}
    calls = tuple(result.timings.unet)
    return TimedRequest(end - start, {name: stages[name] for name in STAGES}, calls, result)


def _inside(timings: Timings) -> dict[str, float]:
    """The pipeline's own clocks; what none of them counts is missing in the sum, and noticed."""
    calls = sum(timings.unet)
    return {
        "prepare": timings.prepare,
        "text": timings.text,
        "vae_encode": timings.vae_encode,
        "unet": calls,
        "vae_decode": timings.vae_decode,
        "composite": timings.composite,
        "safety": timings.safety,
        "overhead": timings.denoise - calls,
    }
