"""Grounds: what lies around a painted thing, and what fills a hole when its name is the caption."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float64]
Draw = np.random.Generator


def noise(height: int, width: int, cells: tuple[int, int], draw: Draw) -> Plane:
    """Smooth normal noise with `cells` (down, across) humps, (height, width)."""
    coarse = Image.fromarray(draw.normal(size=cells).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)


def octaves(height: int, width: int, cells: int, count: int, draw: Draw) -> Plane:
    """Noise of `count` scales, each twice as fine and half as strong as the one before."""
    return sum(
        (noise(height, width, (cells << i, cells << i), draw) / (1 << i) for i in range(count)),
        start=np.zeros((height, width)),
    )


def _tinted(colour: tuple[float, float, float], shade: Plane, draw: Draw) -> Pixels:
    """A colour, a little another one every time, made lighter and darker by `shade`, in levels."""
    base = np.array(colour) + draw.normal(0, 8, 3)
    picture = base + shade[..., None] * np.array([1.0, 1.0, 0.9])
    return _levels(picture)


def _levels(picture: NDArray[np.floating]) -> Pixels:
    levels: Pixels = picture.clip(0, 255).astype(np.uint8)
    return levels


def grass(height: int, width: int, draw: Draw) -> Pixels:
    """Blades: noise far finer across than down."""
    blades = noise(height, width, (max(2, height // 10), max(2, width // 2)), draw)
    return _tinted((85, 130, 50), 22 * blades + 14 * octaves(height, width, 3, 3, draw), draw)


def brick_wall(height: int, width: int, draw: Draw) -> Pixels:
    """Rows of bricks, every second one moved by half a brick, mortar between."""
    course = max(6, round(height * draw.uniform(0.06, 0.11)))
    length, joint = round(2.4 * course), max(1, round(course / 9))
    down, across = np.mgrid[0:height, 0:width]
    row = down // course
    along = across + (row % 2) * (length // 2) + int(draw.integers(length))
    mortar = (down % course < joint) | (along % length < joint)
    each = draw.normal(size=(height // course + 1, (width + 2 * length) // length + 2))
    shade = 20 * each[row, along // length] + 8 * octaves(height, width, 12, 3, draw)
    bricks = _tinted((160, 78, 60), shade, draw)
    gaps = _tinted((190, 184, 174), 6 * octaves(height, width, 16, 2, draw), draw)
    return np.where(mortar[..., None], gaps, bricks)


def sky(height: int, width: int, draw: Draw) -> Pixels:
    """Deep blue above, pale below, clouds."""
    down = np.linspace(0, 1, height)[:, None, None]
    top, bottom = np.array([70.0, 130, 215]), np.array([175.0, 210, 240])
    clear = top + (bottom - top) * down + draw.normal(0, 6, 3)
    cloud = octaves(height, width, 3, 4, draw) - draw.uniform(0.1, 0.9)
    cover = (cloud * 1.3).clip(0, 1)[..., None]
    return _levels(clear + (248 - clear) * cover)


def wood(height: int, width: int, draw: Draw) -> Pixels:
    """Grain along the boards, and the gaps between these."""
    down = np.arange(height)[:, None]
    bend = 0.12 * height * noise(height, width, (3, 2), draw)
    rings = np.sin((down + bend) * draw.uniform(0.35, 0.8) * 128 / height)
    fibres = noise(height, width, (max(2, height // 2), 6), draw)
    board = max(8, height // int(draw.integers(3, 6)))
    gap = np.where((down % board) < max(1, height // 128), -60.0, 0.0)
    return _tinted((160, 112, 66), 12 * rings + 10 * fibres + gap, draw)


def sand(height: int, width: int, draw: Draw) -> Pixels:
    """Grains and low dunes."""
    shade = 12 * octaves(height, width, 3, 2, draw) + draw.normal(0, 9, (height, width))
    return _tinted((214, 186, 132), shade, draw)


def water(height: int, width: int, draw: Draw) -> Pixels:
    """Waves: noise far finer down than across, brighter where it is highest."""
    waves = noise(height, width, (max(2, height // 6), max(2, width // 24)), draw)
    shade = 16 * waves + 40 * (waves - 1.2).clip(0) + 8 * octaves(height, width, 3, 2, draw)
    return _tinted((40, 110, 150), shade, draw)


def snow(height: int, width: int, draw: Draw) -> Pixels:
    """White with soft bluish hollows."""
    shade = 8 * octaves(height, width, 3, 3, draw) + draw.normal(0, 3, (height, width))
    return _tinted((232, 238, 246), shade - 4, draw)


def night(height: int, width: int, draw: Draw) -> Pixels:
    """A dark sky with stars."""
    dark = _tinted((18, 20, 44), 8 * octaves(height, width, 2, 2, draw), draw)
    stars = draw.random((height, width)) < 0.004
    return np.where(stars[..., None], np.uint8(225), dark)


TEXTURES: Mapping[str, Callable[[int, int, Draw], Pixels]] = {
    "grass": grass,
    "brick wall": brick_wall,
    "sky": sky,
    "wood": wood,
    "sand": sand,
    "water": water,
    "snow": snow,
    "night sky": night,
}
"""By what a caption calls them: height, width and a generator to (height, width, 3)."""
