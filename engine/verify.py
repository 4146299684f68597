"""A device against the CPU: every component with the same inputs, then a whole picture.

The CPU runs a small request once and keeps what went into each component and what came out; the
device is given the same inputs, rounded to what float16 holds, so that each component answers for
its own arithmetic alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..scheduler import TorchNoise
from . import memory, vae
from .agreement import Agreement, agreement
from .bundle import Bundle
from .denoise import Known, denoise, starting_latents
from .engine_key import is_built, sizes_for
from .pipeline import Inpainter
from .precision import PRECISIONS
from .safety import shows_concept
from .schedule import schedule_of
from .sessions import (
    ENGINE_DEVICES,
    Session,
    SessionOptions,
    open_session,
    require_device,
    require_precision,
)
from .sessions.base import ARITHMETIC, Array, Feed
from .sessions.residency import AllResident, OneResident, Residency
from .text import TextConditioner

PROMPT = "a photo of a red ball on a wooden table"
SEED = 1
_REDUCED_DB = dict.fromkeys(PRECISIONS, 30.0)
MINIMUM_DB = {"float32": 60.0, "float16": 40.0, **_REDUCED_DB}
"""Below it a component fails, by the precision asked for, or the device's arithmetic."""
MINIMUM_PICTURE_DB = {"float32": 40.0, "float16": 30.0, **_REDUCED_DB}
_STEP = {"safety_checker": 0.001}
"""By role, what an output is rounded to: from two sides of a border, equal is one step apart."""

OnPart = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One run of a component on the CPU: inputs that float16 holds exactly, and outputs."""

    component: str
    feed: Feed
    outputs: dict[str, Array]


def verify(
    bundle: Bundle,
    device: str,
    size: tuple[int, int],
    options: SessionOptions | None = None,
    on_part: OnPart = lambda _: None,
) -> list[Agreement]:
    """Compare `device` with the CPU at `size` (width, height in pixels), the picture last.

    Raises DeviceUnavailable, EngineNotBuilt and the like before the CPU has begun.
    """
    options = options or SessionOptions()
    require_device(device, options.device_index)
    for component in bundle.manifest.components:
        require_precision(bundle, component, device, options)
    if device in ENGINE_DEVICES:
        _require_engines(bundle, device, size, options)
    minimum = MINIMUM_DB[options.precision or ARITHMETIC[device]]
    found = []
    for case in reference_cases(bundle, size, on_part):
        on_part(f"{case.component} on {device}")
        with open_session(bundle, case.component, device, options) as session:
            results = session.run(
                {
                    name: array.astype(session.inputs[name].dtype)
                    for name, array in case.feed.items()
                }
            )
        step = _STEP.get(bundle.component(case.component).role, 0.0)
        found.append(agreement(case.component, results, case.outputs, minimum, step=step))
    return [*found, _picture(bundle, device, size, options, on_part)]


def _require_engines(
    bundle: Bundle, device: str, size: tuple[int, int], options: SessionOptions
) -> None:
    """Those that a picture's size changes first: what builds them builds the others' too."""
    roles = {name: part.role for name, part in bundle.manifest.components.items()}
    sizes = {name: sizes_for(role, *size) for name, role in roles.items() if is_built(role)}
    for name in sorted(sizes, key=lambda name: "width" not in sizes[name]):
        with open_session(bundle, name, device, options) as session:
            session.require(sizes[name])


def reference_cases(bundle: Bundle, size: tuple[int, int], on_part: OnPart) -> list[Case]:
    """What the CPU makes of one small request, component by component."""
    recorders: list[_Recorder] = []
    residency = _cpu(bundle)

    def recorded(name: str) -> Session:
        on_part(f"{name} on cpu")
        recorders.append(_Recorder(bundle, residency.session(name)))
        return recorders[-1]

    try:
        _run_every_component(bundle, size, recorded)
    finally:
        residency.close()
    return [recorder.case for recorder in recorders if recorder.case]


def _run_every_component(
    bundle: Bundle, size: tuple[int, int], session: Callable[[str], Session]
) -> None:
    """The pipeline's own functions in its order; of each UNet one step, at the least noise."""
    scale = bundle.manifest.vae.scaling_factor
    towers = session("text_encoder"), session("text_encoder_2")
    conditioning = TextConditioner(bundle, *towers).encode(PROMPT)
    photo = sample_photo(*(side + -side % 32 for side in size))
    posterior = vae.encode(session("vae_encoder"), photo, scale)
    noise = TorchNoise(SEED).normal(posterior.mean.shape)
    known = Known(posterior.mean, noise, np.ones_like(noise[:, :1]))
    clean = posterior.mean
    steps_of = {entry.component: steps for steps, entry in sorted(bundle.manifest.steps.items())}
    for name, steps in steps_of.items():
        schedule = schedule_of(bundle, steps).starting_at(steps - 1)
        x = starting_latents(known, float(schedule.sigmas[0]), pure_noise=False)
        clean = denoise(session(name), x, known, schedule, conditioning)
    (picture,) = vae.decode(session("vae_decoder"), clean, scale)
    if "safety_checker" in bundle.manifest.components:
        shows_concept(session("safety_checker"), Image.fromarray(picture))


class _Recorder(Session):
    """Passes rounded inputs on to a session and keeps its first run."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        super().__init__(session.component, session.device, session.inputs, session.outputs)
        self._session = session
        self._contract = bundle.contract(session.component)
        self.case: Case | None = None

    def _run(self, feed: Feed) -> dict[str, Array]:
        rounded = {
            name: array.astype(np.float16).astype(array.dtype)
            if self._contract.inputs[name].element == "activation"
            else array
            for name, array in feed.items()
        }
        outputs = self._session.run(rounded)
        self.case = self.case or Case(self.component, rounded, outputs)
        return outputs

    def close(self) -> None:
        self._session.close()


def _picture(
    bundle: Bundle, device: str, size: tuple[int, int], options: SessionOptions, on_part: OnPart
) -> Agreement:
    """The same request on both, every pixel the model's own: nothing of the photo is put back."""
    pictures = []
    for place in ("cpu", device):
        on_part(f"picture on {place}")
        precision = None if place == "cpu" else options.precision
        low_memory = memory.chooses_low_memory(bundle, place, precision=precision)
        chosen = replace(options, precision=precision, weights_mapped=low_memory)
        with Inpainter(bundle, place, chosen, low_memory=low_memory) as inpainter:
            pictures.append({"picture": _painted(inpainter, size)})
    minimum = MINIMUM_PICTURE_DB[options.precision or ARITHMETIC[device]]
    return agreement("picture", pictures[1], pictures[0], minimum)


def _painted(inpainter: Inpainter, size: tuple[int, int]) -> NDArray[np.uint8]:
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : -height // 4, width // 4 : -width // 4] = 255
    steps = inpainter.bundle.manifest.steps
    result = inpainter(
        sample_photo(width, height),
        mask,
        PROMPT,
        image_size=size,
        steps=4 if 4 in steps else max(steps),
        seed=SEED,
        composite=False,
        enable_safety_checker=False,
    )
    return np.asarray(result.image)


def sample_photo(width: int, height: int) -> NDArray[np.uint8]:
    """Something with colours, gradients and edges, (height, width, 3), the same everywhere."""
    down, across = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    inside = (across - 0.4) ** 2 + (down - 0.55) ** 2 < 0.06
    planes = [200 * across + 40, 180 * down + 30, np.where(inside, 220, 90 * (1 - down))]
    return np.stack(planes, axis=-1).astype(np.uint8)


def _cpu(bundle: Bundle) -> Residency:
    low_memory = memory.chooses_low_memory(bundle, "cpu")
    residency = OneResident if low_memory else AllResident
    return residency(bundle, "cpu", SessionOptions(weights_mapped=low_memory))
