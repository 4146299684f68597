"""What a request costs around the model: sessions answer constants, everything else is real.

Prints the cost of a whole 1024x1024 request, JPEG in and JPEG out, and of one denoise step.
"""

import cProfile
import pstats
import statistics
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..engine.doctor import machine
from ..engine.images import encode
from ..engine.pipeline import Inpainter
from ..engine.result import Result

SIDE = 1024
STEPS = 8
TOTAL_LIMIT_MS = 120
STEP_LIMIT_MS = 2


@dataclass(frozen=True, kw_only=True)
class HostOverhead:
    """Medians over `runs` requests, in milliseconds; `stages` sum to `total` but for the rest."""

    runs: int
    total: float
    per_step: float
    stages: dict[str, float]


def measure(runs: int = 11, warmups: int = 3) -> HostOverhead:
    """Time requests whose sessions answer constants; every photo differs, so nothing is cached."""
    with Inpainter.open(device="null") as inpainter:
        totals, steps, stages = [], [], []
        for run in range(-warmups, runs):
            photo, mask = photo_and_mask(run)
            start = time.perf_counter()
            result = _request(inpainter, photo, mask)
            encode(result.image, "jpeg")
            elapsed = time.perf_counter() - start
            if run >= 0:
                totals.append(elapsed)
                steps.append(_per_step(inpainter, photo, mask))
                stages.append(_stages(result, elapsed))
    return HostOverhead(
        runs=runs,
        total=statistics.median(totals) * 1000,
        per_step=statistics.median(steps) * 1000,
        stages={
            name: statistics.median(stage[name] for stage in stages) * 1000 for name in stages[0]
        },
    )


def photo_and_mask(seed: int) -> tuple[bytes, bytes]:
    """A JPEG photo-like picture (1/f noise) and a PNG mask with a disc of half its width."""
    rng = np.random.default_rng(abs(seed))
    octaves = sum(
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (2**k, 2**k, 3), np.uint8)).resize((SIDE, SIDE)),
            np.float32,
        )
        / 2**k
        for k in range(2, 9)
    )
    scaled = (octaves - octaves.min()) / np.ptp(octaves) * 255
    photo, mask = BytesIO(), BytesIO()
    Image.fromarray(scaled.astype(np.uint8)).save(photo, "JPEG", quality=92)
    disc = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(disc).ellipse((SIDE // 4, SIDE // 4, SIDE * 3 // 4, SIDE * 3 // 4), fill=255)
    disc.save(mask, "PNG")
    return photo.getvalue(), mask.getvalue()


def _request(inpainter: Inpainter, photo: bytes, mask: bytes, steps: int = STEPS) -> Result:
    return inpainter(photo, mask, "a green ball", strength=1, steps=steps, seed=1)


def _per_step(inpainter: Inpainter, photo: bytes, mask: bytes) -> float:
    """Seconds one more denoise step costs, from the step callbacks' spacing."""
    moments: list[float] = []
    inpainter(
        photo, mask, "a green ball", strength=1, steps=STEPS, seed=1,
        on_step=lambda _: moments.append(time.perf_counter()),
    )  # fmt: skip
    return (moments[-1] - moments[0]) / (len(moments) - 1)


def _stages(result: Result, elapsed: float) -> dict[str, float]:
    timings = result.timings
    named = {
        "prepare": timings.prepare,
        "text": timings.text,
        "vae_encode": timings.vae_encode,
        "unet calls": sum(timings.unet),
        "vae_decode": timings.vae_decode,
        "composite": timings.composite,
        "jpeg out": elapsed - timings.total,
    }
    return {**named, "noise, blend, Euler": elapsed - sum(named.values())}


def profile() -> str:
    """The costliest functions of one warm request, by own time."""
    photo, mask = photo_and_mask(99)
    with Inpainter.open(device="null") as inpainter:
        _request(inpainter, *photo_and_mask(98))
        profiler = cProfile.Profile()
        profiler.runcall(_request, inpainter, photo, mask)
    stats = pstats.Stats(profiler).get_stats_profile().func_profiles
    costliest = sorted(stats.items(), key=lambda item: -item[1].tottime)[:6]
    return "\n".join(
        f"  {entry.tottime * 1000:6.1f} ms  {name} ({Path(entry.file_name).name})"
        for name, entry in costliest
    )


def main() -> None:
    """Print both figures, the stages behind them, and what dominates."""
    found = measure()
    print(f"host overhead, {SIDE}x{SIDE}, {STEPS} steps, medians of {found.runs}; {machine()}")
    print(f"  request  {found.total:6.1f} ms   (limit {TOTAL_LIMIT_MS})")
    print(f"  per step {found.per_step:6.2f} ms   (limit {STEP_LIMIT_MS})")
    for stage, milliseconds in sorted(found.stages.items(), key=lambda item: -item[1]):
        print(f"    {stage:<20}{milliseconds:6.1f} ms")
    print("own time of one profiled request:")
    print(profile())


if __name__ == "__main__":
    main()
