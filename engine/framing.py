"""From a photo and a mask to the canvas the model sees, and from its paint to finished pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .canvas import (
    Canvas,
    choose_window,
    full_size_mask,
    mask_bounds,
    pad_to_multiple,
    place,
    resize_pixels,
)
from .composite import MAX_FEATHER, composite
from .denoise import Blend
from .images import Photo
from .request import Request, check_size

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Framing:
    """One request's geometry: the canvas the model paints, and what its paint is put into.

    source, region: uint8 (height, width, 3) and bool (height, width): the canvas and its mask, or
        with `crop_to_mask` the whole photo and its mask.
    """

    photo: Photo
    canvas: Canvas
    source: Pixels
    region: NDArray[np.bool_]
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
        feather = min(round(feather * self.canvas.window.width / width), MAX_FEATHER)
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
    size = request.image_size or check_size(*photo.size)
    bounds = mask_bounds(mask, photo.size)
    window = choose_window(photo.size, size, bounds, request.fit, request.crop_to_mask)
    parity = request.blend is Blend.DIFFUSERS
    canvas = place(photo.pixels, mask, window, size, lanczos_mask=parity)
    if onto_photo:
        return Framing(photo, canvas, photo.pixels, mask > 0, request)
    return Framing(photo, canvas, canvas.pixels, canvas.mask, request)
