"""`lightfill bench --predict GPU`: what a GPU nobody has measured could do. No figure is measured.

The floor of a stage is its roofline on the GPU's data sheet. What to expect is the floor over the
share of their limit that published measurements of the same stage reached: of the same GPU if there
are any, else of all others and of the same GPU's UNet, which gives a range.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import graph_costs
from .datasheets import DataSheet, sheet_named
from .graph_costs import Cost
from .limits import DeviceLimit
from .published import MARKS, Mark, known_gpu
from .roofline import floor_of

_MARKED_SIZE = (1024, 1024)  # of every published mark
_CAVEATS = (
    "Not in it: decoding, compositing and encoding pictures on the host (`lightfill bench` "
    "measures that) and copies to and from the GPU. Nobody has published a VAE encoder's or text "
    "encoders' time in these settings: they are taken to reach what VAE decoders and UNets "
    "reached. A time that had other work in it makes the share too small and the expected time "
    "too long."
)
_STANDS_FOR = {"text": "unet", "vae_encode": "vae_decode"}
"""Whose shares are taken for a stage that nobody has published."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Of one stage, seconds. least, most: expected, from the best and the worst share."""

    stage: str
    calls: int
    floor: float
    least: float
    most: float
    share_least: float
    share_most: float
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A whole request on one GPU."""

    gpu: DataSheet
    size: tuple[int, int]
    effective_steps: int
    stages: tuple[Expected, ...]

    @property
    def floor(self) -> float:
        """Seconds of the device's stages at least."""
        return sum(stage.floor for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """For --json; `kind` says what it is."""
        return {
            "schema_version": 1,
            "kind": "prediction",
            "measured": False,
            "gpu": self.gpu.name,
            "flops": self.gpu.flops,
            "bytes": self.gpu.bytes,
            "size": list(self.size),
            "effective_steps": self.effective_steps,
            "floor_s": self.floor,
            "stages": [vars(stage) for stage in self.stages],
        }


def predicted(
    name: str, size: tuple[int, int], effective_steps: int, costs: Mapping[str, Cost] | None = None
) -> Prediction:
    """Predict a request of `size` on the GPU called `name` ("h100", "4090").

    costs: of a bundle's float16 graphs; None takes SDXL base 1.0's.
    """
    sheet = sheet_named(known_gpu(name))
    assert sheet is not None  # noqa: S101 - `known_gpu` has looked
    costs = costs or graph_costs.of_sdxl(size)
    stages = tuple(
        _expected(stage, cost, sheet, effective_steps if stage == "unet" else 1)
        for stage, cost in costs.items()
    )
    return Prediction(gpu=sheet, size=size, effective_steps=effective_steps, stages=stages)


def share_of(mark: Mark) -> float:
    """Of its GPU's limit, that a published time reached."""
    sheet = sheet_named(mark.gpu)
    assert sheet is not None  # noqa: S101 - marks name sheets, as a test checks
    cost = graph_costs.of_sdxl(_MARKED_SIZE)[mark.stage]
    return floor_of(cost, _limit(sheet)).seconds * 1000 / mark.milliseconds


def _expected(stage: str, cost: Cost, sheet: DataSheet, calls: int) -> Expected:
    floor = calls * floor_of(cost, _limit(sheet)).seconds
    marks = [mark for mark in MARKS if mark.stage == _STANDS_FOR.get(stage, stage)]
    own = [mark for mark in marks if mark.gpu == sheet.key]
    its_unet = [mark for mark in MARKS if mark.stage == "unet" and mark.gpu == sheet.key]
    used: Sequence[Mark] = own or [*marks, *its_unet]
    shares = [share_of(mark) for mark in used]
    return Expected(
        stage=stage,
        calls=calls,
        floor=floor,
        least=floor / max(shares),
        most=floor / min(shares),
        share_least=min(shares),
        share_most=max(shares),
        sources=tuple(f"{mark.gpu}: {mark.source}" for mark in used),
    )


def _limit(sheet: DataSheet) -> DeviceLimit:
    source = f"data sheet of {sheet.name}"
    return DeviceLimit(device=sheet.name, flops=sheet.flops, bytes=sheet.bytes, sources=[source])


def markdown(found: Prediction) -> str:
    """The prediction, and that it is one."""
    width, height = found.size
    sheet = found.gpu
    headline = (
        f"**PREDICTION, not a measurement**: {sheet.name}, {width}x{height}, "
        f"{found.effective_steps} UNet calls, float16. Limit from the data sheet: "
        f"{sheet.flops / 1e12:.0f} TFLOP/s, {sheet.bytes / 1e9:.0f} GB/s."
    )
    lines = [
        headline,
        "",
        "| stage | floor ms | expected ms | share of the limit that was published |",
        "|---|---|---|---|",
    ]
    for stage in found.stages:
        calls = f" x {stage.calls}" if stage.calls > 1 else ""
        lines.append(
            f"| {stage.stage}{calls} | {stage.floor * 1000:.2f} "
            f"| {_range(stage.least * 1000, stage.most * 1000)} "
            f"| {_range(100 * stage.share_least, 100 * stage.share_most)} % |"
        )
    least, most = (
        sum(getattr(stage, end) for stage in found.stages) * 1000 for end in ("least", "most")
    )
    lines += [
        f"| **total** | {found.floor * 1000:.2f} | {_range(least, most)} | |",
        "",
        _CAVEATS,
        "",
        "Shares are from:",
    ]
    sources = dict.fromkeys(source for stage in found.stages for source in stage.sources)
    return "\n".join([*lines, *(f"- {source}" for source in sources)]) + "\n"


def _range(low: float, high: float) -> str:
    texts = [f"{value:.1f}" if value < 100 else f"{value:.0f}" for value in (low, high)]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)
