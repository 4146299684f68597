"""Files as data URIs, under fal_client's names."""

import io
import mimetypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .data_uri import encode_data_uri

if TYPE_CHECKING:
    from PIL import Image

BINARY = "application/octet-stream"


def encode(data: str | bytes, content_type: str) -> str:
    """The data, text as UTF-8, as a data URI of that content type."""
    return encode_data_uri(data.encode() if isinstance(data, str) else data, content_type)


def encode_file(path: str | os.PathLike[str]) -> str:
    """The file as a data URI; its content type is guessed from its name."""
    return encode(Path(path).read_bytes(), content_type_of(path))


def encode_image(image: "Image.Image", format: str = "jpeg") -> str:  # noqa: A002, fal's name
    """The picture as a data URI, written as `format` ("jpeg", "png", ...)."""
    return encode(written(image, format), f"image/{format}")


def content_type_of(path: str | os.PathLike[str]) -> str:
    """The content type a file's name stands for."""
    return mimetypes.guess_type(os.fspath(path))[0] or BINARY


def written(image: "Image.Image", file_format: str) -> bytes:
    """The picture as a file of that format, with Pillow's own settings as in fal_client."""
    with io.BytesIO() as buffer:
        image.save(buffer, format=file_format)
        return buffer.getvalue()
