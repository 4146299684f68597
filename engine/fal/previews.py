"""A step's preview as labels of its log entry: our extension of fal's protocol (`preview`)."""

from io import BytesIO

from PIL import Image

from ..denoise import Progress
from .data_uri import encode_data_uri

MAX_BYTES = 6 << 10
"""Of the JPEG: every status with logs repeats it."""
_QUALITIES = (80, 60, 40, 20)


def preview_labels(progress: Progress) -> dict[str, str]:
    """The estimate as a small JPEG, and which rectangle of the photo it shows.

    preview: a data URI. preview_window: "left,top,right,bottom" in pixels of the photo.
    """
    window = progress.window
    edges = (window.left, window.top, window.right, window.bottom)
    return {
        "preview": encode_data_uri(small_jpeg(progress.preview()), "image/jpeg"),
        "preview_window": ",".join(map(str, edges)),
    }


def small_jpeg(picture: Image.Image) -> bytes:
    """An RGB picture in at most MAX_BYTES: coarser first, and then in half its size."""
    for quality in _QUALITIES:
        with BytesIO() as buffer:
            picture.save(buffer, format="JPEG", quality=quality)
            if buffer.tell() <= MAX_BYTES:
                return buffer.getvalue()
    return small_jpeg(picture.reduce(2))
