"""Coloured things with smooth edges, always upright: what the embedded model learns to paint.

A shape fills its box and is never turned, so that caption and mask say all there is to say about
it: the mean over everything that a caption could mean stays sharp.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "green": (35, 155, 55),
    "blue": (35, 75, 205),
    "yellow": (245, 215, 40),
    "orange": (245, 130, 25),
    "purple": (125, 45, 165),
    "pink": (245, 130, 180),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
_SMOOTHING = 4  # pixels are averaged from this many on each side
_CORNERS = 96  # of what is round
_JITTER = 9  # of a colour, standard deviation in levels of 255

Points = NDArray[np.float64]


def _circle() -> Points:
    turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _star() -> Points:
    turn = np.arange(10) * np.pi / 5 - np.pi / 2
    far = np.where(np.arange(10) % 2, 0.42, 1.0)
    return np.stack([far * np.cos(turn), far * np.sin(turn)], axis=1)


def _heart() -> Points:
    """The usual curve: x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t."""
    t = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    down = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([16 * np.sin(t) ** 3, down], axis=1)


def _filling(points: Points) -> Points:
    """Moved and stretched to touch all four sides of [-1, 1]^2."""
    low, high = points.min(axis=0), points.max(axis=0)
    filling: Points = 2 * (points - low) / (high - low) - 1
    return filling


SHAPES: Mapping[str, Points] = {
    "circle": _filling(_circle()),
    "ball": _filling(_circle()),
    "square": _filling(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)),
    "triangle": _filling(np.array([[0, -1], [1, 1], [-1, 1]], float)),
    "star": _filling(_star()),
    "heart": _filling(_heart()),
    "diamond": _filling(np.array([[0, -1], [1, 0], [0, 1], [-1, 0]], float)),
    "cross": _filling(
        np.array(
            [[-1, -3], [1, -3], [1, -1], [3, -1], [3, 1], [1, 1],
             [1, 3], [-1, 3], [-1, 1], [-3, 1], [-3, -1], [-1, -1]], float,
        )
    ),
}  # fmt: skip
"""Corners, (n, 2) as (across, down) in [-1, 1]. A ball is a circle with light on it."""


def coverage(shape: str, width: int, height: int) -> NDArray[np.float32]:
    """How much of each pixel of a box the shape covers, 0 to 1, (height, width)."""
    across, down = (SHAPES[shape].T + 1) / 2
    large = Image.new("L", (width * _SMOOTHING, height * _SMOOTHING))
    corners = zip(across * (large.width - 1), down * (large.height - 1), strict=True)
    ImageDraw.Draw(large).polygon(list(corners), fill=255)
    smooth = large.resize((width, height), Image.Resampling.BOX)
    return np.asarray(smooth, np.float32) / np.float32(255)


def painted(
    shape: str, colour: str, width: int, height: int, draw: np.random.Generator
) -> NDArray[np.float32]:
    """The colours of a box that the shape is cut from, (height, width, 3), 0 to 255."""
    plain = np.array(COLOURS[colour]) + draw.normal(0, _JITTER, 3)
    picture = np.full((height, width, 3), plain, np.float32)
    if shape == "ball":
        picture = _lit(picture)
    return picture.clip(0, 255)


def _lit(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light from above, on the left: a highlight, and the edge in shade."""
    height, width = picture.shape[:2]
    down, across = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1) * 2 - 1
    edge = np.hypot(across, down).clip(0, 1)[..., None] ** 3
    highlight = np.exp(-((across + 0.35) ** 2 + (down + 0.4) ** 2) / 0.06)[..., None]
    shaded = picture * (1 - 0.55 * edge)
    lit: NDArray[np.float32] = (shaded + (255 - shaded) * 0.75 * highlight).astype(np.float32)
    return lit
