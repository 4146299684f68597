"""From a photo and a mask to the canvas the model sees, and from its paint to finished pictures."""

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .canvas import (
    Canvas,
    Window,
    choose_window,
    full_size_mask,
    mask_bounds,
    pad_to_multiple,
    place,
    resize_pixels,
)
from .composite import MAX_PHOTO_FEATHER, composite
from .denoise import Blend
from .errors import InvalidInput
from .images import MASK_THRESHOLD, Photo
from .request import MAX_SIDE, MIN_SIDE, Request

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Framing:
    """One request's geometry: the canvas the model paints, and what its paint is put into.

    source, region: uint8 (height, width, 3) and bool (height, width): the canvas and its mask, or
        with `crop_to_mask` the whole photo and its mask.
    mask_cut_off: share (0..1) of the mask that lies outside the window.
    """

    photo: Photo
    canvas: Canvas
    source: Pixels
    region: NDArray[np.bool_]
    mask_cut_off: float
    request: Request

    @property
    def padded_pixels(self) -> Pixels:
        """The canvas, its edge continued to sides that are multiples of 32."""
        return pad_to_multiple(self.canvas.pixels, "edge")

    def finish(self, painted: Pixels) -> Image.Image:
        """A decoded picture put into `source`: cut to size, scaled back, blended in the mask."""
        width, height = self.canvas.size
        painted = painted[:height, :width]
        feather = self.request.feather
        if self.request.crop_to_mask is None:
            return self._picture(self._composited(self.source, painted, self.region, feather))
        box, window = self.canvas.photo_box, self.canvas.window.inside(self.photo.size)
        part = painted[box.top : box.bottom, box.left : box.right]
        part = resize_pixels(part, (window.width, window.height))
        feather = min(round(feather * self.canvas.window.width / width), MAX_PHOTO_FEATHER)
        area = slice(window.top, window.bottom), slice(window.left, window.right)
        finished = self.source.copy()
        finished[area] = self._composited(self.source[area], part, self.region[area], feather)
        return self._picture(finished)

    def _composited(
        self, source: Pixels, painted: Pixels, region: NDArray[np.bool_], feather: int
    ) -> Pixels:
        return composite(source, painted, region, feather) if self.request.composite else painted

    def _picture(self, pixels: Pixels) -> Image.Image:
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        if self.photo.icc_profile:
            picture.info["icc_profile"] = self.photo.icc_profile
        return picture


def frame(photo: Photo, mask: NDArray[np.uint8], request: Request) -> Framing:
    """Choose the window on the photo and bring it to the working size.

    `mask` is uint8 of any size, stretched over the photo; InvalidInput if nothing in it is white.
    """
    onto_photo = request.crop_to_mask is not None
    if onto_photo:  # the paint will be put into the photo, pixel by pixel
        mask = full_size_mask(mask, photo.size).astype(np.uint8) * np.uint8(255)
    size = request.image_size or _source_size(photo)
    bounds = mask_bounds(mask, photo.size)
    window = choose_window(photo.size, size, bounds, request.fit, request.crop_to_mask)
    parity = request.blend is Blend.DIFFUSERS
    canvas = place(photo.pixels, mask, window, size, lanczos_mask=parity)
    if not canvas.mask.any():
        raise InvalidInput(
            "mask",
            f'nothing of it is left with fit="{request.fit}" and blend="{request.blend}"; use '
            'fit="pad" or crop_to_mask=0.3, and blend="context"',
        )
    cut_off = _share_cut_off(mask, photo, window)
    if cut_off:
        logger.warning(
            "%.0f %% of the mask lies outside the crop; fit='pad' or crop_to_mask keep all of it",
            100 * cut_off,
        )
    if onto_photo:
        return Framing(photo, canvas, photo.pixels, mask > 0, cut_off, request)
    return Framing(photo, canvas, canvas.pixels, canvas.mask, cut_off, request)


def _source_size(photo: Photo) -> tuple[int, int]:
    width, height = photo.size
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in photo.size):
        raise InvalidInput(
            "image_size",
            f'the photo is {width}x{height}, and "source" needs sides from {MIN_SIDE} to '
            f"{MAX_SIDE}; give a size, with crop_to_mask to keep the photo's own",
        )
    return width, height


def _share_cut_off(mask: NDArray[np.uint8], photo: Photo, window: Window) -> float:
    """Share of the painted mask that lies outside the window, counted in the mask's own pixels."""
    painted = mask >= MASK_THRESHOLD
    inside = window.inside(photo.size)
    across, down = mask.shape[1] / photo.size[0], mask.shape[0] / photo.size[1]
    rows = slice(math.floor(inside.top * down), math.ceil(inside.bottom * down))
    columns = slice(math.floor(inside.left * across), math.ceil(inside.right * across))
    return 1 - int(painted[rows, columns].sum()) / int(painted.sum())
