"""Every kind of wrong picture ends in one sentence that names the field and says what to do."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightfill.engine.errors import (
    FileDownloadError,
    ImageLoadError,
    ImageTooLarge,
    InvalidInput,
    LightfillError,
)
from lightfill.engine.images import MAX_PIXELS, decode_mask, decode_photo

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
ADVICE = re.compile(r"; (use|pass|save|scale|check) [^;]+$")


def encoded(file_format: str, picture: Image.Image = PICTURE) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format)
    return buffer.getvalue()


def png_header_claiming(width: int, height: int) -> bytes:
    """A PNG of a few dozen bytes whose header promises any number of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def raised_by(source: Any, expected: type[LightfillError], field: str = "image") -> str:
    """The message of the error `source` gives, whose form is checked here once for all."""
    with pytest.raises(LightfillError) as caught:
        (decode_mask if field == "mask" else decode_photo)(source, field)
    assert type(caught.value) is expected
    assert isinstance(caught.value, InvalidInput)
    assert caught.value.field == field
    assert caught.value.http_status == 422
    message = str(caught.value)
    assert message.startswith(f"{field}: ")
    assert "\n" not in message
    assert not message.endswith(".")
    assert ADVICE.search(message), message
    return message


def first_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def closed_picture() -> Image.Image:
    picture = Image.open(io.BytesIO(encoded("PNG")))
    picture.close()
    return picture


WRONG_SOURCES: dict[str, tuple[Callable[[], Any], type[LightfillError], str]] = {
    "no such file": (lambda: "nowhere/photo.png", FileDownloadError, "No such file"),
    "path with a null byte": (lambda: "a\0b.png", FileDownloadError, "cannot be read"),
    "empty path": (lambda: "", FileDownloadError, "directory"),
    "no bytes": (lambda: b"", ImageLoadError, "not a picture"),
    "text": (lambda: b"this is not a picture", ImageLoadError, "not a picture"),
    "truncated PNG": (lambda: first_half(encoded("PNG")), ImageLoadError, "cannot be decoded"),
    "truncated JPEG": (lambda: first_half(encoded("JPEG")), ImageLoadError, "cannot be decoded"),
    "truncated WebP": (lambda: first_half(encoded("WEBP")), ImageLoadError, "decoded"),
    "PNG without pixels": (lambda: png_header_claiming(64, 64), ImageLoadError, "decoded"),
    "closed picture": (closed_picture, ImageLoadError, "cannot be decoded"),
    "picture of no size": (lambda: Image.new("RGB", (0, 5)), ImageLoadError, "0x5"),
    "array of no size": (lambda: np.zeros((0, 5, 3), np.uint8), ImageLoadError, "no pixels"),
    "floats of no size": (lambda: np.zeros((4, 0)), ImageLoadError, "no pixels"),
    "floats above 1": (lambda: np.full((4, 4), 1.5), InvalidInput, r"outside \[0, 1\]"),
    "floats below 0": (lambda: np.full((4, 4), -0.1), InvalidInput, r"outside \[0, 1\]"),
    "NaN": (lambda: np.full((4, 4), np.nan), InvalidInput, r"outside \[0, 1\]"),
    "infinity": (lambda: np.full((4, 4), np.inf), InvalidInput, r"outside \[0, 1\]"),
    "int64 array": (lambda: np.zeros((4, 4), np.int64), InvalidInput, "int64"),
    "complex array": (lambda: np.zeros((4, 4), complex), InvalidInput, "complex128"),
    "text array": (lambda: np.full((4, 4), "a"), InvalidInput, "array of <U1"),
    "one dimension": (lambda: np.zeros(16, np.uint8), InvalidInput, r"shape \(16,\)"),
    "four dimensions": (lambda: np.zeros((1, 4, 4, 3), np.uint8), InvalidInput, "shape"),
    "five channels": (lambda: np.zeros((4, 4, 5), np.uint8), InvalidInput, "shape"),
    "channels first": (lambda: np.zeros((3, 40, 40), np.uint8), InvalidInput, "shape"),
    "None": (lambda: None, InvalidInput, "NoneType is no picture"),
    "a number": (lambda: 7, InvalidInput, "int is no picture"),
    "a list": (lambda: [[0, 0]], InvalidInput, "list is no picture"),
    "32-bit integers": (
        lambda: Image.fromarray(np.full((4, 4), 70_000, np.int32)),
        ImageLoadError,
        "8 or 16 bits",
    ),
    "float picture above 1": (
        lambda: Image.fromarray(np.full((4, 4), 2, np.float32)),
        InvalidInput,
        r"outside \[0, 1\]",
    ),
}


@pytest.mark.parametrize("field", ["image", "mask"])
@pytest.mark.parametrize("kind", WRONG_SOURCES)
def test_wrong_source_is_one_clear_error(kind: str, field: str) -> None:
    make, error, words = WRONG_SOURCES[kind]
    assert re.search(words, raised_by(make(), error, field))


def test_directory_and_text_file_are_named(tmp_path: Path) -> None:
    assert str(tmp_path) in raised_by(tmp_path, FileDownloadError)
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    assert str(text) in raised_by(text, ImageLoadError)


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_bomb_is_refused_from_its_header(side: int) -> None:
    """At 100 megapixels, beyond Pillow's own hard limit (179), and at the format's limit."""
    bomb = png_header_claiming(side, side)
    assert len(bomb) < 100
    assert "scale it down first" in raised_by(bomb, ImageTooLarge)


def test_bomb_is_refused_where_pillow_only_warns() -> None:
    """Outside this test suite Pillow's warning is no exception; our own limit must hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        message = raised_by(png_header_claiming(10_000, 10_000), ImageTooLarge)
    assert "10000x10000 is 100 megapixels, the limit is 64" in message


def test_limit_counts_pixels_and_is_the_callers() -> None:
    assert decode_photo(PICTURE, max_pixels=32 * 24).size == (32, 24)
    with pytest.raises(ImageTooLarge, match="32x24"):
        decode_photo(PICTURE, max_pixels=32 * 24 - 1)
    with pytest.raises(ImageTooLarge):
        decode_mask(np.zeros((3, 3), np.uint8), max_pixels=8)
    assert MAX_PIXELS == 64_000_000


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
def test_a_side_has_a_limit_too(size: tuple[int, int]) -> None:
    message = raised_by(png_header_claiming(*size), ImageTooLarge)
    assert "has a side of more than 65535 pixels" in message
    assert decode_photo(np.zeros((1, 65_535, 3), np.uint8)).size == (65_535, 1)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "DDS"])
def test_damaged_files_never_leak_a_codecs_own_exception(file_format: str) -> None:
    """Codecs raise struct.error, RuntimeError, NotImplementedError and more on damaged data."""
    whole = encoded(file_format)
    generator = np.random.default_rng(3)
    refused = 0
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = generator.integers(0, min(len(damaged), 150), 4)
        damaged[places] = generator.integers(0, 256, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on damage it could read past
            try:
                decode_photo(damaged.tobytes())
            except InvalidInput:
                refused += 1
    assert refused > 10
