"""Any picture a caller may hand over becomes 8-bit RGB or a mask; results become files.

Pixel arrays are uint8 (height, width, 3); masks are bool (height, width), True where to repaint.
"""

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .encoded_checks import check_decoding_cost
from .errors import FileDownloadError, ImageLoadError, ImageTooLarge, InvalidInput
from .layers import has_alpha, mask_of, over_white, pixels

ImageSource = bytes | str | os.PathLike[str] | Image.Image | NDArray[Any]
"""Encoded bytes, a path, a PIL picture, or an array (height, width[, channels])."""

MAX_PIXELS = 64_000_000
"""Larger pictures are refused from their header, before they are decoded."""
_LONGEST_SIDE = 65_535
"""As JPEG has it. Pillow spends time and memory on every row, also of a picture one pixel wide."""
PILLOW_MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 2**63
MASK_THRESHOLD = 128
JPEG_QUALITY = 95
PNG_LEVEL = 1
FORMATS = {"jpeg": "JPEG", "png": "PNG"}

logger = logging.getLogger(__name__)

_WIDE_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_READ = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
"""Encoded pictures are of these formats: among Pillow's others are some that start programs (EPS)
or hold pictures larger than their header says (ICO)."""
_ONLY_THROUGH = {"LAB": "RGB", "La": "LA"}
"""Modes that Pillow converts to one other mode only."""


@dataclass(frozen=True)
class Photo:
    """A decoded picture: its pixels and the colour profile its file carried, if any."""

    pixels: NDArray[np.uint8]
    icc_profile: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]


def decode_photo(source: ImageSource, field: str = "image", max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode to RGB as a viewer shows it: EXIF orientation applied, transparency over white.

    16-bit and float pictures are brought to 8 bits; an RGB file's colour profile is kept. Raises
    ImageLoadError, ImageTooLarge or FileDownloadError naming `field`.
    """
    picture = _open(source, field, max_pixels)
    profile = picture.info.get("icc_profile") if picture.mode in ("RGB", "RGBA") else None
    with _decoding(field, source):
        picture = _eight_bit(picture, field)
        return Photo(pixels(over_white(picture).convert("RGB")), profile)


def decode_mask(
    source: ImageSource, field: str = "mask", max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode to one channel, uint8 (height, width): 255 repaints, 0 keeps.

    A mask with transparency is a painted layer: brightness times opacity, or opacity alone where
    everything visible has one colour (strokes of any colour on a transparent ground).
    """
    picture = _open(source, field, max_pixels)
    with _decoding(field, source):
        return mask_of(_eight_bit(picture, field))


def encode(picture: Image.Image, file_format: str) -> bytes:
    """A picture as file bytes, "jpeg" (quality 95) or "png" (level 1), without metadata.

    Only a colour profile travels along: the pixel values mean nothing without it.
    """
    if file_format not in FORMATS:
        raise InvalidInput("format", f"{file_format!r} is not one of {', '.join(FORMATS)}")
    buffer = io.BytesIO()
    profile = picture.info.get("icc_profile")
    bare = picture.copy()
    bare.info = {}  # Pillow writes some of it, such as comments, unasked
    options = {"quality": JPEG_QUALITY} if file_format == "jpeg" else {"compress_level": PNG_LEVEL}
    try:
        bare.save(buffer, FORMATS[file_format], icc_profile=profile, **options)
    except OSError as error:
        raise InvalidInput(
            "format", f"{picture.width}x{picture.height} is no {file_format} ({error}); use png"
        ) from error
    return buffer.getvalue()


def to_png(source: ImageSource, field: str = "image", max_pixels: int = MAX_PIXELS) -> bytes:
    """Any picture as PNG bytes that decode to the same photo and the same mask as `source`.

    (The mask of a YCbCr picture, whose brightness PNG cannot hold, may differ by one level.)
    """
    picture = _open(source, field, max_pixels)
    buffer = io.BytesIO()
    with _decoding(field, source):
        profile = picture.info.get("icc_profile")
        if picture.mode not in _PNG_MODES:
            picture, profile = _eight_bit(picture, field), None
            picture = picture.convert("RGBA" if has_alpha(picture) else "RGB")
        picture.save(buffer, "PNG", compress_level=PNG_LEVEL, icc_profile=profile, exif=b"")
    return buffer.getvalue()


def format_of(path: str | os.PathLike[str]) -> str:
    """The format a file name's ending stands for, "jpeg" or "png"; InvalidInput for any other."""
    endings = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
    ending = Path(path).suffix.lower()
    if ending not in endings:
        raise InvalidInput("output", f"{path} ends in {ending!r}; use .png, .jpg or .jpeg")
    return endings[ending]


def _open(source: ImageSource, field: str, max_pixels: int) -> Image.Image:
    """The picture, upright and fully decoded, after its header passed the size check."""
    with _decoding(field, source):
        picture = _lazy(source, field)
        _check_pixel_count(picture.size, field, max_pixels)
        picture.load()
        return _upright(picture)


@contextlib.contextmanager
def _decoding(field: str, source: ImageSource) -> Iterator[None]:
    """Turn whatever a codec or a conversion raises into our errors, naming `field`."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = str(error).rstrip(".")
        raise ImageTooLarge(field, f"{reason}; scale it down first") from error
    except UnidentifiedImageError:
        raise ImageLoadError(
            field, f"{_name(source)} is not a picture in a known format; use JPEG, PNG or WebP"
        ) from None
    except InvalidInput:
        raise
    except Exception as error:  # codecs raise a dozen unrelated types
        raise ImageLoadError(
            field, f"{_name(source)} cannot be decoded: {error}; save it again"
        ) from error


def _upright(picture: Image.Image) -> Image.Image:
    """EXIF orientation applied; a picture whose EXIF cannot be read is upright as it is."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # noqa: BLE001  # damaged tags raise anything
        logger.warning("EXIF cannot be read (%s); the picture is taken as upright", error)
        return picture


def _check_pixel_count(size: tuple[int, int], field: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLarge(
            field,
            f"{width}x{height} is {width * height / 1e6:.0f} megapixels, "
            f"the limit is {max_pixels / 1e6:.0f}; scale it down first",
            context={"max_resolution": max_pixels},
        )
    if max(size) > _LONGEST_SIDE:
        raise ImageTooLarge(
            field,
            f"{width}x{height} has a side of more than {_LONGEST_SIDE} pixels; scale it down first",
            context={"max_height": _LONGEST_SIDE, "max_width": _LONGEST_SIDE},
        )
    if not width or not height:
        raise ImageLoadError(
            field, f"the picture is {width}x{height}: it has no pixels; pass another one"
        )


def _lazy(source: ImageSource, field: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source, field)
    if isinstance(source, bytes | bytearray | memoryview):
        return _encoded(bytes(source), field)
    if isinstance(source, str | os.PathLike):
        try:
            data = Path(source).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise FileDownloadError(
                field, f"{source} cannot be read: {reason}; check the path"
            ) from error
        return _encoded(data, field)
    raise InvalidInput(
        field, f"{type(source).__name__} is no picture; pass bytes, a path, a PIL image or an array"
    )


def _encoded(data: bytes, field: str) -> Image.Image:
    picture = Image.open(io.BytesIO(data), formats=_formats())
    check_decoding_cost(picture, data, field)
    return picture


@cache
def _formats() -> tuple[str, ...]:
    """Those of `_READ` that this Pillow has."""
    Image.init()
    return tuple(name for name in _READ if name in Image.OPEN)


def _from_array(array: NDArray[Any], field: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 2, 3, 4):
        raise InvalidInput(
            field, f"array of shape {array.shape}; use (height, width) or (height, width, 1..4)"
        )
    if not array.size:
        raise ImageLoadError(
            field, f"array of shape {array.shape}: it has no pixels; pass another one"
        )
    return Image.fromarray(np.ascontiguousarray(_array_to_uint8(array, field)))


def _array_to_uint8(array: NDArray[Any], field: str) -> NDArray[np.uint8]:
    """bool, uint8, uint16, or float in [0, 1], as 8 bits per channel."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return _narrowed(array)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise InvalidInput(field, "float array has values outside [0, 1]; scale it to [0, 1]")
        rounded: NDArray[np.uint8] = np.rint(array * 255).astype(np.uint8)
        return rounded
    raise InvalidInput(field, f"array of {array.dtype}; use uint8, uint16, bool or float in [0, 1]")


def _eight_bit(picture: Image.Image, field: str) -> Image.Image:
    """Modes that Pillow cannot convert, or would clip: those with more than 8 bits a channel."""
    if picture.mode in _ONLY_THROUGH:
        return picture.convert(_ONLY_THROUGH[picture.mode])
    if picture.mode not in _WIDE_MODES:
        return picture
    values = np.asarray(picture)
    if picture.mode == "F":
        return Image.fromarray(_array_to_uint8(values, field))
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageLoadError(field, "32-bit integer picture; save it with 8 or 16 bits a channel")
    return Image.fromarray(_narrowed(values))


def _narrowed(values: NDArray[Any]) -> NDArray[np.uint8]:
    """16 to 8 bits, so that 0 stays 0 and 65535 becomes 255."""
    narrowed: NDArray[np.uint8] = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return narrowed


def _name(source: ImageSource) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "the data"
