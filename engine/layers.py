"""Pictures with transparency: over white as viewers show them, or layers a mask is painted on.

A few bytes a pixel at once: a picture may have 64 megapixels.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WHITE = (255, 255, 255, 255)
_PIECE = 1 << 20
"""Pixels that are computed with in 16 bits at a time."""


def has_alpha(picture: Image.Image) -> bool:
    """Whether some of it may be transparent."""
    return picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info


def over_white(picture: Image.Image) -> Image.Image:
    """The picture on a white ground where it is transparent; itself if it cannot be."""
    if not has_alpha(picture):
        return picture
    layer = _rgba(picture)
    return Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer)


def mask_of(picture: Image.Image) -> NDArray[np.uint8]:
    """uint8 (height, width), 255 repaints: see `images.decode_mask`."""
    if not has_alpha(picture):
        return pixels(picture.convert("L"))
    layer = _rgba(picture)
    alpha = pixels(layer.getchannel("A"))
    if alpha.min() == 255:
        return pixels(picture.convert("L"))
    if _visible_in_one_colour(layer, alpha > 0):
        return alpha
    brightness = pixels(layer.convert("RGB").convert("L"))
    mask: NDArray[np.uint8] = np.empty_like(alpha)
    flat, bright, opaque = mask.reshape(-1), brightness.reshape(-1), alpha.reshape(-1)
    for start in range(0, mask.size, _PIECE):
        piece = slice(start, start + _PIECE)
        flat[piece] = bright[piece].astype(np.uint16) * opaque[piece] // 255
    return mask


def _visible_in_one_colour(layer: Image.Image, visible: NDArray[np.bool_]) -> bool:
    """Whether all `visible` pixels of an RGBA layer have one colour."""
    if not visible.any():
        return False
    for name in "RGB":
        channel = pixels(layer.getchannel(name))
        lowest = channel.min(where=visible, initial=255)
        if lowest != channel.max(where=visible, initial=0):
            return False
    return True


def _rgba(picture: Image.Image) -> Image.Image:
    """The picture itself if it is RGBA: converting would copy it."""
    return picture if picture.mode == "RGBA" else picture.convert("RGBA")


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """Its values, (height, width[, channels])."""
    array: NDArray[np.uint8] = np.asarray(picture)
    return array
