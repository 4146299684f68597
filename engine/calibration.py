"""Requests that show what a UNet sees: for choosing int8's ranges, and for judging the result.

Whole denoising runs of the pipeline's own functions, in two strengths, over photos and prompts of
many kinds. Those that choose and those that judge differ in photo and seed, and, while there are
no more than `PROMPTS`, in prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..scheduler import Schedule, TorchNoise, first_step
from . import vae
from .bundle import Bundle
from .components import PIXELS_PER_LATENT
from .denoise import Known, Latents, denoise, starting_latents
from .schedule import schedule_of
from .sessions import Session
from .sessions.base import Array, Feed
from .sessions.residency import Residency
from .text import Conditioning, TextConditioner

PROMPTS = (
    "a red ball", "a photo of a golden retriever on a lawn", "a blue square", "grass",
    "a wooden chair in a sunlit room", "a yellow circle", "an old brick wall", "a green ball",
    "portrait of a woman, studio light", "a white square", "snow-covered mountains at dusk",
    "a purple ball", "a bowl of fruit, oil painting", "an orange circle", "empty street at night",
    "a black square",
)  # fmt: skip
"""Things, places and styles, and what the embedded model knows."""
STRENGTHS = (1.0, 0.95)


@dataclass(frozen=True)
class Run:
    """One request up to its first UNet call. start: latents (1, 4, h, w) at the first sigma."""

    conditioning: Conditioning
    known: Known
    start: Latents
    schedule: Schedule

    def denoised(self, unet: Session) -> Latents:
        """Clean latents, as the pipeline makes them."""
        return denoise(unet, self.start, self.known, self.schedule, self.conditioning)


def runs(
    bundle: Bundle,
    components: Residency,
    steps: Sequence[int],
    size: tuple[int, int],
    numbers: Sequence[int],
) -> list[Run]:
    """The requests of these numbers at `size` (width, height, multiples of 32).

    Step counts, all of one UNet, take turns, each with both strengths.
    """
    session = components.session
    prompts = [PROMPTS[number % len(PROMPTS)] for number in numbers]
    text = TextConditioner(bundle, session("text_encoder"), session("text_encoder_2"))
    conditionings = [text.encode(prompt) for prompt in prompts]
    scale = bundle.manifest.vae.scaling_factor
    posteriors = [
        vae.encode(session("vae_encoder"), photo(*size, number), scale).mean for number in numbers
    ]
    return [
        _run(bundle, steps[number // 2 % len(steps)], clean, conditioning, number)
        for clean, conditioning, number in zip(posteriors, conditionings, numbers, strict=True)
    ]


def _run(
    bundle: Bundle, steps: int, clean: Latents, conditioning: Conditioning, number: int
) -> Run:
    strength = STRENGTHS[number % 2]
    schedule = schedule_of(bundle, steps).starting_at(first_step(steps, strength))
    known = Known(clean, TorchNoise(number).normal(clean.shape), mask(clean.shape))
    pure_noise = strength == 1.0
    start = starting_latents(known, float(schedule.sigmas[0]), pure_noise=pure_noise)
    return Run(conditioning, known, start, schedule)


def mask(shape: tuple[int, ...]) -> Latents:
    """1 in the middle half of latents of `shape` (batch, 4, h, w)."""
    height, width = shape[2:]
    plane = np.zeros((1, 1, height, width), np.float32)
    plane[..., height // 4 : -(height // 4), width // 4 : -(width // 4)] = 1
    return plane


def photo(width: int, height: int, number: int) -> NDArray[np.uint8]:
    """A made-up photo, another for every number: light falling off, a thing, a pattern, noise."""
    draw = np.random.Generator(np.random.PCG64(number))
    down, across = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    picture = np.empty((height, width, 3))
    turn, waves = draw.uniform(0, 2 * np.pi), draw.uniform(2, 40)
    pattern = np.sin(waves * 2 * np.pi * (across * np.cos(turn) + down * np.sin(turn)))
    away = np.hypot(across - draw.uniform(), down - draw.uniform())
    inside = away < draw.uniform(0.15, 0.4)
    for channel in range(3):
        ground = (
            draw.uniform(30, 220) + draw.uniform(-90, 90) * down + draw.uniform(0, 25) * pattern
        )
        picture[..., channel] = np.where(inside, draw.uniform(0, 255) * (1 - away / 2), ground)
    picture += draw.normal(0, draw.uniform(0, 12), picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


class Recording(Session):
    """Passes a UNet's runs on and keeps their inputs and predictions."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.component, session.device, session.inputs, session.outputs)
        self._session = session
        self.feeds: list[Feed] = []
        self.predictions: list[Array] = []

    def _run(self, feed: Feed) -> dict[str, Array]:
        results = self._session.run(feed)
        self.feeds.append({name: array.copy() for name, array in feed.items()})
        self.predictions.append(results["prediction"].copy())
        return results

    def close(self) -> None:
        self._session.close()


def painted(
    bundle: Bundle, components: Residency, cleans: Sequence[Latents]
) -> Iterator[NDArray[np.uint8]]:
    """What the model painted: the part of each decoded picture that the mask covers."""
    decoder, scale = components.session("vae_decoder"), bundle.manifest.vae.scaling_factor
    for clean in cleans:
        (picture,) = vae.decode(decoder, clean, scale)
        cells = mask(clean.shape)[0, 0].astype(bool)
        yield picture[np.kron(cells, np.ones((PIXELS_PER_LATENT, PIXELS_PER_LATENT), bool))]
