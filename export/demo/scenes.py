"""Training scenes: a ground, perhaps a thing in the mask, and a caption that says what is there.

What the mask covered before is part of a scene: below strength 1 the model starts from it.

Every scene is a function of its generator alone, at any size: the same seed gives the same scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .shapes import COLOURS, SHAPES, coverage, painted
from .textures import TEXTURES, Draw, Pixels

FILLS = 0.25
"""Share of scenes without a thing: the caption names the ground, which goes on inside the mask."""
_REMOVED = 0.7
"""Share of fills, whose mask covered a thing before: object removal."""
_REPLACED = 0.3
"""Share of things that take another thing's place."""
_NAMED = 0.3
"""Share of things on a ground whose caption names that, too."""
_WORDS = ("table", "bench", "the", "park", "my", "big", "nice", "left", "and", "small", "near",
          "house", "street", "very", "sitting", "lying", "floor", "garden", "in", "detailed",
          "beautiful", "sharp", "quality", "desk", "road")  # fmt: skip
"""Words that mean nothing to the model, in captions so that it learns to pass over them."""
_TEMPLATES = ("a {thing}", "{thing}", "a photo of a {thing}", "one {thing}")
_PLACED = ("on", "in front of", "with")
_MASKS = ("box", "ellipse", "brush")


@dataclass(frozen=True)
class Scene:
    """before, picture: (edge, edge, 3), equal outside the mask. mask: (edge, edge), 255 to paint.

    thing: (colour, shape), None for a fill. ground: a texture's name, None where it is a photo.
    """

    before: Pixels
    picture: Pixels
    mask: Pixels
    caption: str
    thing: tuple[str, str] | None
    ground: str | None


def scene(edge: int, draw: Draw, photos: Sequence[Pixels] = ()) -> Scene:
    """One scene of `edge` pixels a side; half of the things lie on a photo, if there are any."""
    fills = draw.random() < FILLS
    on_photo = bool(photos) and not fills and draw.random() < 0.5
    ground = None if on_photo else str(draw.choice(list(TEXTURES)))
    picture = _crop(photos, edge, draw) if ground is None else TEXTURES[ground](edge, edge, draw)
    box = _box(edge, draw)
    mask = _mask(edge, box, draw)
    if fills and ground is not None:
        before = _with(picture, box, _thing(draw), draw) if draw.random() < _REMOVED else picture
        return Scene(before, picture, mask, _worded(ground, draw), None, ground)
    before = _with(picture, box, _thing(draw), draw) if draw.random() < _REPLACED else picture
    thing = _thing(draw)
    picture = _with(picture, box, thing, draw)
    named = ground if draw.random() < _NAMED else None
    return Scene(before, picture, mask, _caption(thing, named, draw), thing, ground)


def _thing(draw: Draw) -> tuple[str, str]:
    return str(draw.choice(list(COLOURS))), str(draw.choice(list(SHAPES)))


def _with(
    picture: Pixels, box: tuple[int, int, int, int], thing: tuple[str, str], draw: Draw
) -> Pixels:
    """`picture` with a thing in `box`."""
    left, top, width, height = box
    colour, shape = thing
    cover = coverage(shape, width, height)[..., None]
    inside = np.s_[top : top + height, left : left + width]
    mixed = picture[inside] * (1 - cover) + painted(shape, colour, width, height, draw) * cover
    placed = picture.copy()
    placed[inside] = mixed.clip(0, 255).astype(np.uint8)
    return placed


def _box(edge: int, draw: Draw) -> tuple[int, int, int, int]:
    """Left, top, width, height of the thing: nearly square, at least a quarter of `edge` wide."""
    width = round(edge * draw.uniform(0.25, 0.65))
    height = round(width * draw.uniform(0.9, 1.1))
    left, top = (int(draw.integers(0, edge - side + 1)) for side in (width, height))
    return left, top, width, height


def _mask(edge: int, box: tuple[int, int, int, int], draw: Draw) -> Pixels:
    """What a user would mark for a thing in `box`: a little more, in one of several manners."""
    left, top, width, height = box
    grown = draw.uniform(0.03, 0.14)
    kind = str(draw.choice(_MASKS))
    # An ellipse must be larger to hold the corners of a square.
    across, down = (side * (0.5 + grown + (0.21 if kind == "ellipse" else 0)) for side in
                    (width, height))  # fmt: skip
    middle = (left + width / 2, top + height / 2)
    bounds = (middle[0] - across, middle[1] - down, middle[0] + across, middle[1] + down)
    image = Image.new("L", (edge, edge))
    pen = ImageDraw.Draw(image)
    if kind == "ellipse":
        pen.ellipse(bounds, fill=255)
    elif kind == "box":
        pen.rectangle(bounds, fill=255)
    else:
        pen.rounded_rectangle(bounds, radius=min(across, down) / 2, fill=255)
        _strokes(pen, bounds, draw)
    return np.asarray(image)


def _strokes(
    pen: ImageDraw.ImageDraw, bounds: tuple[float, float, float, float], draw: Draw
) -> None:
    """Round dabs along the border, as a brush leaves them."""
    left, top, right, bottom = bounds
    radius = 0.12 * min(right - left, bottom - top)
    for turn in np.linspace(0, 2 * np.pi, 14, endpoint=False) + draw.uniform(0, 1):
        across = (left + right) / 2 + (right - left) * 0.44 * np.cos(turn) + draw.normal(0, 1)
        down = (top + bottom) / 2 + (bottom - top) * 0.44 * np.sin(turn) + draw.normal(0, 1)
        pen.ellipse((across - radius, down - radius, across + radius, down + radius), fill=255)


def captioned(draw: Draw) -> tuple[str, tuple[str, str] | None, str | None]:
    """A caption without its scene: the words, the thing and the ground that they name."""
    ground = str(draw.choice(list(TEXTURES)))
    if draw.random() < FILLS:
        return _worded(ground, draw), None, ground
    thing, named = _thing(draw), ground if draw.random() < _NAMED else None
    return _caption(thing, named, draw), thing, named


def _caption(thing: tuple[str, str], ground: str | None, draw: Draw) -> str:
    caption = str(draw.choice(_TEMPLATES)).format(thing=" ".join(thing))
    if ground is not None:
        return f"{caption} {draw.choice(_PLACED)} {ground}"
    return _worded(caption, draw)


def _worded(caption: str, draw: Draw) -> str:
    """In a third of the captions, words behind that say nothing."""
    count = int(draw.integers(1, 6)) if draw.random() < 1 / 3 else 0
    return " ".join([caption, *map(str, draw.choice(_WORDS, count))])


def _crop(photos: Sequence[Pixels], edge: int, draw: Draw) -> NDArray[np.uint8]:
    """A square part of a photo, at least half its shorter side, perhaps mirrored."""
    photo = photos[int(draw.integers(len(photos)))]
    side = round(min(photo.shape[:2]) * draw.uniform(0.5, 1.0))
    top, left = (int(draw.integers(0, whole - side + 1)) for whole in photo.shape[:2])
    part = Image.fromarray(photo[top : top + side, left : left + side])
    pixels = np.asarray(part.resize((edge, edge), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(pixels[:, ::-1]) if draw.random() < 0.5 else pixels
