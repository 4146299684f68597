"""What a request gives back: pictures, and everything needed to explain or repeat them."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .atomic_write import write_atomically
from .checks import whole_number
from .errors import InvalidInput
from .images import encode, format_of
from .safety import Version


@dataclass
class Timings:
    """Wall-clock seconds per stage; `unet` has one entry per UNet call.

    denoise: the loop around those calls, with them: what it has beyond them is noise, blending and
        the Euler updates.
    """

    prepare: float = 0.0
    text: float = 0.0
    vae_encode: float = 0.0
    unet: list[float] = field(default_factory=list)
    denoise: float = 0.0
    vae_decode: float = 0.0
    composite: float = 0.0
    safety: float = 0.0
    total: float = 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time the block takes to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - start)

    def as_dict(self) -> dict[str, float | list[float]]:
        """The stages by name, in the order they run, in seconds; `unet` stands for `denoise`."""
        return {
            "prepare": self.prepare,
            "text": self.text,
            "vae_encode": self.vae_encode,
            "unet": list(self.unet),
            "vae_decode": self.vae_decode,
            "composite": self.composite,
            "safety": self.safety,
            "total": self.total,
        }


@dataclass(frozen=True, kw_only=True)
class Result:
    """The finished pictures of one request.

    images: one RGB picture per seed, of exactly the size asked for (with `crop_to_mask`, the
        photo's own size).
    source, mask: what the pictures were composited onto: uint8 (height, width, 3), and bool
        (height, width), True where the model painted. Outside it, pixels equal `source`.
    seeds: the seed of each picture; picture k alone is what `seed=seeds[k]` gives (with
        blend="diffusers" the first picture's seed also decides the known latents of all).
    mask_cut_off: share (0..1) of the mask that `fit="crop"` left outside the picture.
    effective_steps: UNet calls per picture after `strength` (scheduler.strength).
    prompt: what was painted, expanded if that was asked for.
    safety_checker, has_nsfw_concepts: which checker ran ("v1", "v2", None: none), and which
        pictures it blacked out.
    truncated_prompt: the end of the prompt the 77-token window had no room for, or None.
    """

    images: tuple[Image.Image, ...]
    source: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    mask_cut_off: float
    prompt: str
    truncated_prompt: str | None
    seeds: tuple[int, ...]
    steps: int
    effective_steps: int
    strength: float
    device: str
    safety_checker: Version | None
    has_nsfw_concepts: tuple[bool, ...]
    timings: Timings

    @property
    def safety_checked(self) -> bool:
        """Whether a checker looked at the pictures."""
        return self.safety_checker is not None

    @property
    def seed(self) -> int:
        """The first picture's seed, also when it was drawn at random."""
        return self.seeds[0]

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    def save(self, path: str | os.PathLike[str], index: int = 0) -> Path:
        """Write picture `index` to `path` (.png, .jpg or .jpeg), whole or not at all."""
        if not isinstance(path, str | os.PathLike):
            raise InvalidInput("output", f"{path!r} is no path; pass one ending in .png or .jpg")
        target = Path(path)
        data = encode(
            self.images[whole_number("index", index, -len(self.images), len(self.images) - 1)],
            format_of(target),
        )
        try:
            write_atomically(target, data)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidInput(
                "output", f"{target} cannot be written: {reason}; choose another path"
            ) from error
        return target
