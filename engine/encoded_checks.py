"""Files that cost far more to decode than the size in their header says, told apart unread.

A JPEG may repeat a scan of a hundred bytes over the whole picture any number of times (64
megapixels: 27 ms each, measured); a TIFF may keep a small picture in one gigantic tile, which is
inflated whole. Some kinds of PPM and BMP are decoded by Python itself, value by value, while other
threads wait (16 megapixels of a PPM: 22 s, measured).
"""

import re

from PIL import Image

from .errors import ImageLoadError

MAX_SCANS = 100
"""Progressive JPEGs have about ten."""
_LARGEST_TILE = 1024
"""Pixels a TIFF tile's side may have beyond the picture's own."""
_TILE_SIDES = (322, 323)
MAX_PIXELS_IN_PYTHON = 1_000_000
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""In coded data, 0xFF is followed by zero or a restart mark; anything else is a marker."""
_START_OF_SCAN, _END_OF_IMAGE, _NO_LENGTH = 0xDA, 0xD9, (0x01, 0xD8)


def check_decoding_cost(picture: Image.Image, data: bytes, field: str) -> None:
    """Raise ImageLoadError for a `picture`, opened from `data` but not loaded, that is a bomb."""
    if picture.format in ("JPEG", "MPO") and scans_of(data) > MAX_SCANS:
        reason = f"the JPEG has more than {MAX_SCANS} scans"
        raise ImageLoadError(field, f"{reason}; save it again")
    width, height = picture.size
    in_python = any(tile[0] in Image.DECODERS for tile in getattr(picture, "tile", ()))
    if in_python and width * height > MAX_PIXELS_IN_PYTHON:
        most = f"{MAX_PIXELS_IN_PYTHON / 1e6:g} megapixel"
        reason = f"this kind of {picture.format} is read up to {most} only"
        raise ImageLoadError(field, f"{reason}; save it as PNG")
    if picture.format == "TIFF":
        tags = getattr(picture, "tag_v2", {})
        limits = (side + _LARGEST_TILE for side in picture.size)
        for tag, limit in zip(_TILE_SIDES, limits, strict=True):
            if isinstance(side := tags.get(tag, 0), int) and side > limit:
                reason = f"the TIFF's tiles of {side} pixels are larger than its picture"
                raise ImageLoadError(field, f"{reason}; save it again")


def scans_of(data: bytes) -> int:
    """How many scans the JPEG in `data` has, counted up to one more than `MAX_SCANS`."""
    scans, position = 0, 0
    while scans <= MAX_SCANS and (found := _MARKER.search(data, position)):
        marker, position = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            break
        scans += marker == _START_OF_SCAN
        if marker not in _NO_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    return scans
