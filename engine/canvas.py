"""What part of the photo the model sees, and at which size.

A `Window` is a rectangle on the photo; a `Canvas` is that rectangle brought to the working size.
Every fit is a choice of window: `crop` the largest one of the wanted shape, centred on the mask;
`stretch` the whole photo whatever its shape; `pad` one that reaches beyond the photo, whose edge
pixels then continue; `crop_to_mask` the mask's surroundings.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import InvalidInput
from .images import MASK_THRESHOLD

WORKING_MULTIPLE = 32
"""The UNet halves its latents twice: sides must be multiples of 4 latent cells of 8 pixels."""

MAX_ENLARGEMENT = 4
"""How far `crop_to_mask` magnifies the photo at most."""
_ROUNDING = 1e-6
"""Mask pixels by which a computed edge may miss the whole number it stands for."""

Scalar = TypeVar("Scalar", bound=np.generic)
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Fit(StrEnum):
    """How a photo of another shape than `image_size` meets it."""

    CROP = "crop"
    STRETCH = "stretch"
    PAD = "pad"


@dataclass(frozen=True)
class Window:
    """A rectangle in photo pixels; it may reach beyond the photo (fit "pad")."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """In photo pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In photo pixels."""
        return self.bottom - self.top

    def inside(self, size: tuple[int, int]) -> "Window":
        """The part of it on a photo of `size` (width, height)."""
        width, height = size
        return Window(
            max(self.left, 0), max(self.top, 0), min(self.right, width), min(self.bottom, height)
        )


@dataclass(frozen=True)
class Canvas:
    """The window at the size asked for: pixels (height, width, 3) and mask (height, width).

    `photo_box` is where the photo itself lies on the canvas (all of it unless padded).
    """

    pixels: Pixels
    mask: Mask
    window: Window
    photo_box: Window

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]


def choose_window(
    photo_size: tuple[int, int],
    size: tuple[int, int],
    mask_bounds: Window,
    fit: Fit = Fit.CROP,
    crop_to_mask: float | None = None,
) -> Window:
    """The window for a photo and a working size, both (width, height).

    With `crop_to_mask`, `mask_bounds` grown by that fraction of its own size on every side, then to
    the working shape; at least a quarter of the working size, so that a speck has surroundings, and
    no larger than the photo allows unless the mask itself is. Without, as `fit` says.
    """
    ratios = photo_size[0] / size[0], photo_size[1] / size[1]
    if crop_to_mask is not None:
        needed = max(mask_bounds.width / size[0], mask_bounds.height / size[1])
        grown = max(needed * (1 + 2 * crop_to_mask), 1 / MAX_ENLARGEMENT)
        scale = max(needed, min(grown, *ratios))
        return _centred(photo_size, size, scale, mask_bounds)
    if fit is Fit.STRETCH:
        return Window(0, 0, *photo_size)
    scale = max(ratios) if fit is Fit.PAD else min(ratios)
    return _centred(photo_size, size, scale, mask_bounds)


def place(
    pixels: Pixels,
    mask: NDArray[np.uint8],
    window: Window,
    size: tuple[int, int],
    *,
    lanczos_mask: bool = False,
) -> Canvas:
    """Bring the window of a photo, and of its mask, to a canvas of `size` (width, height).

    The photo is resampled with Lanczos. `mask` is uint8 of any size and covers the whole photo;
    shrunk, a canvas pixel is repainted when any part of it is, so that thin strokes survive.
    `lanczos_mask` resamples and thresholds it as diffusers does instead.
    """
    photo_size = pixels.shape[1], pixels.shape[0]
    inside = window.inside(photo_size)
    box = _on_canvas(inside, window, size)
    picture = _resized(pixels, inside, box, Image.Resampling.LANCZOS)
    scale = mask.shape[1] / photo_size[0], mask.shape[0] / photo_size[1]
    resize_mask = _lanczos_mask if lanczos_mask else _covering_mask
    painted = resize_mask(mask, inside, scale, box)
    margins = (box.top, size[1] - box.bottom), (box.left, size[0] - box.right)
    return Canvas(
        pixels=np.pad(picture, (*margins, (0, 0)), mode="edge") if _any(margins) else picture,
        mask=np.pad(painted, margins) if _any(margins) else painted,
        window=window,
        photo_box=box,
    )


def mask_bounds(mask: NDArray[np.uint8], photo_size: tuple[int, int]) -> Window:
    """Bounding box of what is to be repainted, in photo pixels; InvalidInput if that is nothing."""
    painted = mask >= MASK_THRESHOLD
    rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
    if not len(rows):
        raise InvalidInput("mask", "nothing in it is white; paint the area to replace white")
    across, down = photo_size[0] / mask.shape[1], photo_size[1] / mask.shape[0]
    return Window(
        int(columns[0] * across),
        int(rows[0] * down),
        int(np.ceil((columns[-1] + 1) * across)),
        int(np.ceil((rows[-1] + 1) * down)),
    )


def full_size_mask(mask: NDArray[np.uint8], photo_size: tuple[int, int]) -> Mask:
    """A mask of any size as one bool per photo pixel."""
    height, width = mask.shape
    whole = Window(0, 0, *photo_size)
    return _covering_mask(mask, whole, (width / photo_size[0], height / photo_size[1]), whole)


def pad_to_multiple(array: NDArray[Scalar], mode: Literal["edge", "constant"]) -> NDArray[Scalar]:
    """Extend height and width at the bottom and right to multiples of 32, by numpy's pad `mode`."""
    down, across = (-side % WORKING_MULTIPLE for side in array.shape[:2])
    if not down and not across:
        return array
    return np.pad(array, [(0, down), (0, across), (0, 0)][: array.ndim], mode=mode)


def latent_mask(mask: Mask, *, nearest: bool = False) -> NDArray[np.float32]:
    """(height, width) pixels, multiples of 8, to (1, 1, h/8, w/8) float32, 1 where to paint.

    A cell is painted when any of its 64 pixels is (`nearest`: when its first one is, as in
    diffusers).
    """
    height, width = mask.shape
    if nearest:
        cells: Mask = mask[::8, ::8]
    else:
        cells = np.logical_or.reduce(mask.reshape(height // 8, 8, width // 8, 8), axis=(1, 3))
    return cells.astype(np.float32)[None, None]


def _centred(
    photo_size: tuple[int, int], size: tuple[int, int], scale: float, around: Window
) -> Window:
    """A window of `size` * `scale` photo pixels centred on `around`, on the photo if it fits."""
    extents = []
    for axis, (low, high) in enumerate([(around.left, around.right), (around.top, around.bottom)]):
        limit = photo_size[axis]
        length = max(1, round(size[axis] * scale))
        start = round((low + high - length) / 2)
        # A longer window than the photo is centred on it and padded on both sides.
        start = (limit - length) // 2 if length > limit else min(max(start, 0), limit - length)
        extents.append((start, start + length))
    (left, right), (top, bottom) = extents
    return Window(left, top, right, bottom)


def _on_canvas(inside: Window, window: Window, size: tuple[int, int]) -> Window:
    """Where the photo part of a window lands on the canvas, in whole pixels, at least one."""
    across, down = size[0] / window.width, size[1] / window.height
    left = min(round((inside.left - window.left) * across), size[0] - 1)
    top = min(round((inside.top - window.top) * down), size[1] - 1)
    right = max(left + 1, round((inside.right - window.left) * across))
    bottom = max(top + 1, round((inside.bottom - window.top) * down))
    return Window(left, top, right, bottom)


def _resized(pixels: Pixels, source: Window, target: Window, how: Image.Resampling) -> Pixels:
    part = pixels[source.top : source.bottom, source.left : source.right]
    if part.shape[:2] == (target.height, target.width):
        return part
    picture = Image.fromarray(np.ascontiguousarray(part))
    resized: Pixels = np.asarray(picture.resize((target.width, target.height), how))
    return resized


def resize_pixels(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """A picture (height, width, 3) at `size` (width, height), Lanczos."""
    whole = Window(0, 0, pixels.shape[1], pixels.shape[0])
    return _resized(pixels, whole, Window(0, 0, *size), Image.Resampling.LANCZOS)


def _covering_mask(
    mask: NDArray[np.uint8], source: Window, scale: tuple[float, float], target: Window
) -> Mask:
    """Threshold, then resample so that nothing painted vanishes, however thin.

    Along an axis that shrinks, a pixel is painted that touches anything painted; along one that
    grows, one whose centre is, so that the mask's border stays where it was drawn.
    """
    painted = mask >= MASK_THRESHOLD
    left, top, right, bottom = _scaled(source, scale)
    rows = _resampled(painted, 0, (top, bottom), target.height)
    return _resampled(rows, 1, (left, right), target.width)


def _resampled(painted: Mask, axis: int, span: tuple[float, float], parts: int) -> Mask:
    if span[1] - span[0] >= parts:
        return _any_touched(painted, axis, span, parts)
    centres = np.linspace(*span, 2 * parts + 1)[1::2]
    nearest: Mask = painted.take(np.minimum(centres.astype(np.intp), painted.shape[axis] - 1), axis)
    return nearest


def _any_touched(painted: Mask, axis: int, span: tuple[float, float], parts: int) -> Mask:
    """Cut `span` of an axis into equal parts: True for those that touch a painted pixel."""
    edges = np.linspace(*span, parts + 1)
    first = np.floor(edges[:-1] + _ROUNDING).astype(np.intp)
    last = np.ceil(edges[1:] - _ROUNDING).astype(np.intp) - 1
    touched = painted.take(first, axis)
    for offset in range(1, int((last - first).max()) + 1):
        touched |= painted.take(np.minimum(first + offset, last), axis)
    return touched


def _lanczos_mask(
    mask: NDArray[np.uint8], source: Window, scale: tuple[float, float], target: Window
) -> Mask:
    box = _scaled(source, scale)
    picture = Image.fromarray(mask)
    resized = picture.resize((target.width, target.height), Image.Resampling.LANCZOS, box=box)
    return np.asarray(resized) >= MASK_THRESHOLD


def _scaled(window: Window, scale: tuple[float, float]) -> tuple[float, float, float, float]:
    across, down = scale
    return (
        window.left * across,
        window.top * down,
        window.right * across,
        window.bottom * down,
    )


def _any(margins: tuple[tuple[int, int], tuple[int, int]]) -> bool:
    return any(side for pair in margins for side in pair)
