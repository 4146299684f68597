"""The bundle's safety checker: which finished pictures are not safe for work."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .sessions import Session

_SIDE = 224
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
"""CLIP's preprocessing constants (Radford et al. 2021; openai/CLIP)."""


def is_unsafe(checker: Session, pixels: NDArray[np.uint8]) -> bool:
    """Whether the checker scores an RGB picture (height, width, 3) above its threshold."""
    score = checker.run({"pixel_values": clip_pixels(pixels)})["score"]
    return bool(score[0] > 0)


def blacked_out(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What replaces a flagged picture: the same size, black, as fal's endpoint does."""
    return np.zeros_like(pixels)


def clip_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CLIP's input: short side to 224 (bicubic), centre crop, normalised; (1, 3, 224, 224)."""
    picture = Image.fromarray(pixels)
    scale = _SIDE / min(picture.size)
    size = (max(_SIDE, round(picture.width * scale)), max(_SIDE, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - _SIDE) // 2, (size[1] - _SIDE) // 2
    square = np.asarray(picture.crop((left, top, left + _SIDE, top + _SIDE)), np.float32)
    normalised: NDArray[np.float32] = (square / np.float32(255) - _MEAN) / _STD
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))[None]
