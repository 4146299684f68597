"""The photos of this folder: those the embedded model learns from, and those it is measured on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from .textures import Pixels

_FOLDER = Path(__file__).parent / "photos"
_EMBLEMS = {"hubble-deep-field", "brick", "grass", "gravel"}
"""Pictures without a foreground: of use to the VAE, poor grounds for a thing."""


def photos(split: Literal["training", "held_out"]) -> Mapping[str, Pixels]:
    """By name: (height, width, 3), at most 640 pixels a side."""
    paths = sorted((_FOLDER / split).glob("*.jpg"))
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in paths}


def scenic(found: Mapping[str, Pixels]) -> list[Pixels]:
    """Those that a thing may lie in."""
    return [photo for name, photo in found.items() if name not in _EMBLEMS]


def square(photo: Pixels, edge: int) -> Pixels:
    """The middle of a photo, (edge, edge, 3)."""
    side = min(photo.shape[:2])
    top, left = ((whole - side) // 2 for whole in photo.shape[:2])
    part = Image.fromarray(photo[top : top + side, left : left + side])
    return np.asarray(part.resize((edge, edge), Image.Resampling.LANCZOS))
