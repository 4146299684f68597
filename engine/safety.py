"""The bundle's safety checker: which finished pictures are not safe for work."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .sessions import Session

_SIDE = 224
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
"""CLIP's preprocessing constants (Radford et al. 2021; openai/CLIP)."""


def is_unsafe(checker: Session, picture: Image.Image) -> bool:
    """Whether the checker scores an RGB picture above its threshold."""
    score = checker.run({"pixel_values": clip_pixels(picture)})["score"]
    return bool(score[0] > 0)


def blacked_out(picture: Image.Image) -> Image.Image:
    """What replaces a flagged picture: the same size, black, as fal's SDK toolkit does."""
    return Image.new("RGB", picture.size)


def clip_pixels(picture: Image.Image) -> NDArray[np.float32]:
    """CLIP's input: short side to 224 (bicubic), centre crop, normalised; (1, 3, 224, 224)."""
    scale = _SIDE / min(picture.size)
    size = (max(_SIDE, round(picture.width * scale)), max(_SIDE, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - _SIDE) // 2, (size[1] - _SIDE) // 2
    square = np.asarray(picture.crop((left, top, left + _SIDE, top + _SIDE)), np.float32)
    normalised: NDArray[np.float32] = (square / np.float32(255) - _MEAN) / _STD
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))[None]
