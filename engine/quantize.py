"""A UNet in int8: calibrated on what it sees, judged by whole pictures, kept only if they hold up.

Weights are int8 per output channel, activations int8 in ranges chosen from calibration runs; what
lies between stays float32 (NNCF's post-training quantization, SmoothQuant included).
"""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import calibration, memory
from .agreement import psnr_db
from .bundle import Bundle
from .calibration import Recording, Run
from .checks import real_number, whole_number
from .denoise import Latents
from .errors import ExportError, InvalidInput
from .quantized_store import QuantizedRecord, QuantizedStore
from .sessions import SessionOptions, open_session, require_device
from .sessions.base import Array, Feed
from .sessions.residency import AllResident, OneResident, Residency

DEVICE = "openvino"
MINIMUM_PICTURE_DB = 30.0
"""Below it, inside the mask, differences are seen without looking for them."""
MAX_RUNS = 64
_BYTES_PER_STORED = 5.8
"""Memory for each byte of a UNet's float16 weights: SDXL's, 5.1 GB, was killed where there were
24 GB, and ended with swap added, of which 5.5 GB were seen in use."""

logger = logging.getLogger(__name__)

OnStage = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class QuantizationRequest:
    """What to quantize and how. size: of the calibration requests, (width, height) in pixels."""

    bundle: Bundle
    size: tuple[int, int]
    steps: tuple[int, ...]
    calibration_runs: int = 8
    judging_runs: int = 4
    minimum_picture_db: float = MINIMUM_PICTURE_DB

    def __post_init__(self) -> None:
        """Raise InvalidInput for sizes and counts that cannot be run."""
        if any(side % 32 or not 64 <= side <= 2048 for side in self.size):
            raise InvalidInput("image_size", "take multiples of 32 between 64 and 2048")
        whole_number("calibration_runs", self.calibration_runs, 1, MAX_RUNS)
        whole_number("judging_runs", self.judging_runs, 1, MAX_RUNS)
        real_number("minimum_psnr", self.minimum_picture_db, -1000, 1000)


@dataclass(frozen=True)
class _Seen:
    """float32's side: what calibration runs fed the UNet, and judging runs in and out of it."""

    calibration: list[Feed]
    judging: list[Feed]
    predictions: list[Array]
    cleans: list[Latents]


def quantize(
    request: QuantizationRequest, on_stage: OnStage = lambda _: None
) -> dict[str, QuantizedRecord]:
    """Quantize the UNet of each step count asked for; records by component.

    Raises DeviceUnavailable, ComponentMissing, or ExportError for a UNet whose pictures do not hold
    up; those that do are kept before the next one begins.
    """
    require_device(DEVICE)
    _require_quantizer()
    steps_of: dict[str, list[int]] = {}
    for steps in sorted(request.steps, reverse=True):  # so that few judges judge many steps
        steps_of.setdefault(request.bundle.unet(steps).component, []).append(steps)
    return {name: _quantized(request, name, steps, on_stage) for name, steps in steps_of.items()}


def _quantized(
    request: QuantizationRequest, component: str, steps: list[int], on_stage: OnStage
) -> QuantizedRecord:
    from ..export.quantization import made_with, write_quantized

    bundle, store = request.bundle, QuantizedStore(request.bundle)
    _warn_if_memory_is_short(bundle, component)
    place = _writable_place(store, component)
    with _components(bundle) as components:
        on_stage(f"{component}: calibration requests")
        numbers = range(request.calibration_runs + request.judging_runs)
        every = calibration.runs(bundle, components, steps, request.size, numbers)
    choosing, judging = every[: request.calibration_runs], every[request.calibration_runs :]
    seen = _seen(bundle, component, choosing, judging, on_stage)
    with tempfile.TemporaryDirectory(dir=place, prefix=".") as directory:
        network = Path(directory) / "unet.xml"
        on_stage(f"{component}: choosing ranges")
        write_quantized(bundle.graph(component, "float32"), seen.calibration, network)
        on_stage(f"{component}: judging pictures")
        figures = _judged(request, component, network, judging, seen)
        if figures["picture_psnr_db"] < request.minimum_picture_db:
            raise ExportError(
                f"{component} in int8 paints pictures {figures['picture_psnr_db']:.1f} dB from "
                f"float32's, less than {request.minimum_picture_db:.0f}; it is not kept: raise "
                "--calibration-runs, or accept it with a lower --minimum-psnr"
            )
        about = {"made_with": made_with(), "size": request.size,
                 "calibrated_on": len(choosing), "measured_on": len(judging)}  # fmt: skip
        return store.keep(component, network, {**about, **figures})


def _writable_place(store: QuantizedStore, component: str) -> Path:
    """The directory that will hold the network, tried before minutes of work."""
    place = store.path(component).parent
    try:
        place.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return place
    except OSError as error:
        raise ExportError(
            f"{place} cannot be written ({error.strerror}); quantize a copy of the bundle in a "
            "directory of your own"
        ) from error


def _warn_if_memory_is_short(bundle: Bundle, component: str) -> None:
    weights = bundle.manifest.files[bundle.component(component).weights].bytes
    needed = _BYTES_PER_STORED * weights
    if needed > memory.WORTH_ASKING and needed > memory.available_bytes():
        logger.warning(
            "quantizing %s takes about %.0f GB of memory, more than the %.0f GB that are "
            "available: with swap it is slow, without it the system may end this process",
            component,
            needed / 1e9,
            memory.available_bytes() / 1e9,
        )


def _seen(
    bundle: Bundle, component: str, choosing: list[Run], judging: list[Run], on_stage: OnStage
) -> _Seen:
    with open_session(bundle, component, DEVICE) as session:
        unet = Recording(session)
        for number, run in enumerate(choosing):
            on_stage(f"{component}: float32, request {number + 1} of {len(choosing + judging)}")
            run.denoised(unet)
        feeds = unet.feeds
        unet = Recording(session)
        cleans = []
        for number, run in enumerate(judging, start=len(choosing)):
            on_stage(f"{component}: float32, request {number + 1} of {len(choosing + judging)}")
            cleans.append(run.denoised(unet))
    memory.return_freed()
    return _Seen(feeds, unet.feeds, unet.predictions, cleans)


def _judged(
    request: QuantizationRequest, component: str, network: Path, judging: list[Run], seen: _Seen
) -> dict[str, Any]:
    """Every step for the same inputs, then every picture from its own noise to its own pixels."""
    from .sessions.openvino import OpenVinoSession

    contract = request.bundle.contract(component)
    by_step: dict[str, list[float]] = {}
    with OpenVinoSession(network, component, contract, SessionOptions()) as unet:
        for feed, expected in zip(seen.judging, seen.predictions, strict=True):
            psnr = psnr_db(unet.run(feed)["prediction"], expected)
            by_step.setdefault(f"{float(feed['timestep'][0]):.0f}", []).append(psnr)
        cleans = [run.denoised(unet) for run in judging]
    memory.return_freed()
    with _components(request.bundle) as components:
        pictures = [
            list(calibration.painted(request.bundle, components, side))
            for side in (cleans, seen.cleans)
        ]
    return {
        "step_psnr_db": {step: float(np.median(found)) for step, found in by_step.items()},
        "picture_psnr_db": min(
            psnr_db(ours, reference, peak=255.0) for ours, reference in zip(*pictures, strict=True)
        ),
    }


@contextmanager
def _components(bundle: Bundle) -> Iterator[Residency]:
    """Everything but the UNet, one at a time: beside a UNet being quantized, memory is short."""
    kind = OneResident if memory.needed_bytes(bundle, DEVICE) > memory.WORTH_ASKING else AllResident
    residency = kind(bundle, DEVICE, None)
    try:
        yield residency
    finally:
        residency.close()


def _require_quantizer() -> None:
    try:
        from ..export import quantization  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"quantizing needs NNCF ({error}); `pip install 'lightfill[quantize]'`"
        ) from error
