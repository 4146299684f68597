"""The mask-blend loop: Euler steps in which the pixels to keep are held at their known values."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..scheduler import Schedule, denoised, euler_step, noised, scaled_input
from .canvas import Window
from .components import PIXELS_PER_LATENT
from .errors import Cancelled
from .preview import Previewer
from .sessions import Session
from .text import Conditioning

Latents = NDArray[np.float32]


class Blend(StrEnum):
    """When the known latents are put back."""

    CONTEXT = "context"
    """Before every UNet call and after the last: the first call at strength 1 sees the context."""
    DIFFUSERS = "diffusers"
    """After every step, exactly as diffusers' SDXL inpainting pipeline does."""


@dataclass(frozen=True)
class Known:
    """What is known of the result: clean latents z0, the run's noise n, and where to repaint.

    clean: (1, 4, h, w); noise: (batch, 4, h, w); mask: (1, 1, h, w), 1 where the model paints.
    """

    clean: Latents
    noise: Latents
    mask: Latents

    def blended(self, x: Latents, sigma: float) -> Latents:
        """`x` where the mask is 1, the known latents at noise level `sigma` elsewhere."""
        return self.mask * x + (1 - self.mask) * noised(self.clean, self.noise, sigma)


@dataclass(frozen=True)
class Progress:
    """One finished UNet call: `step` of `of`, and the current estimate of the clean latents."""

    step: int
    of: int
    latents: Latents
    previewer: Previewer

    @property
    def window(self) -> Window:
        """The rectangle of the photo, in its pixels, that the latents and the preview show."""
        return self.previewer.window

    def preview(self) -> Image.Image:
        """A small RGB picture of the estimate, the batch's first: an eighth of the working size."""
        return self.previewer.picture(self.latents)


OnStep = Callable[[Progress], object]
"""Called after every UNet call; returning False (not None) cancels the request."""


def starting_latents(known: Known, sigma: float, *, pure_noise: bool) -> Latents:
    """Latents at the first noise level: noise alone (strength 1), else noise over the picture."""
    if pure_noise:
        return np.float32(sigma) * known.noise
    return noised(known.clean, known.noise, sigma)


def denoise(
    unet: Session,
    x: Latents,
    known: Known,
    schedule: Schedule,
    conditioning: Conditioning,
    blend: Blend = Blend.CONTEXT,
    on_step: Callable[[Latents, float], None] = lambda *_: None,
) -> Latents:
    """Run every step of `schedule` from `x` (batch, 4, h, w) to clean scaled latents.

    `on_step` gets the estimate of the clean latents and the seconds of each UNet call.
    """
    predict = _predictor(unet, conditioning, x.shape)
    for i, timestep in enumerate(schedule.timesteps):
        sigma, sigma_next = float(schedule.sigmas[i]), float(schedule.sigmas[i + 1])
        if blend is Blend.CONTEXT:
            x = known.blended(x, sigma)
        start = time.perf_counter()
        output = predict(scaled_input(x, sigma), timestep)
        seconds = time.perf_counter() - start
        estimate = denoised(x, output, sigma, schedule.prediction)
        x = euler_step(x, estimate, sigma, sigma_next)
        if blend is Blend.DIFFUSERS:
            x = known.blended(x, sigma_next)
        on_step(estimate, seconds)
    return known.blended(x, 0.0)


def _predictor(
    unet: Session, conditioning: Conditioning, shape: tuple[int, ...]
) -> Callable[[Latents, np.float32], Latents]:
    """The UNet as a function of (scaled latents, timestep), the conditions prepared once.

    time_ids are (original height, width, crop top, left, target height, width): the generation
    size for both sizes and no crop, as diffusers fills them in.
    """
    batch, _, height, width = shape
    size = (height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT)
    fixed = {
        "encoder_hidden_states": conditioning.hidden_states,
        "text_embeds": conditioning.text_embeds,
        "time_ids": np.array([[*size, 0, 0, *size]], np.float32),
    }
    feed = {
        name: np.repeat(array.astype(unet.inputs[name].dtype, copy=False), batch, axis=0)
        for name, array in fixed.items()
    }
    dtype = unet.inputs["sample"].dtype

    def predict(sample: Latents, timestep: np.float32) -> Latents:
        feed["sample"] = sample.astype(dtype, copy=False)
        feed["timestep"] = np.array([timestep], np.float32)
        return unet.run(feed)["prediction"].astype(np.float32, copy=False)

    return predict


def reporter(
    on_step: OnStep | None, of: int, durations: list[float], previewer: Previewer
) -> Callable[[Latents, float], None]:
    """Number a request's UNet calls for its callback and keep their seconds; False cancels."""

    def report(estimate: Latents, seconds: float) -> None:
        durations.append(seconds)
        step = len(durations)
        answer = None if on_step is None else on_step(Progress(step, of, estimate, previewer))
        if isinstance(answer, bool | np.bool_) and not answer:
            raise Cancelled(f"cancelled by the step callback after step {step} of {of}")

    return report
