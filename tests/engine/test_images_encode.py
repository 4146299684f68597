"""Finished pictures become files that carry pixels, a colour profile and nothing else."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lightfill.engine.errors import InvalidInput
from lightfill.engine.images import encode, format_of

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("file_format", ["png", "jpeg"])
def test_encoded_files_carry_a_colour_profile_and_nothing_else(file_format: str) -> None:
    picture = Image.fromarray(COLOURS)
    exif = Image.Exif()
    exif[0x010E] = "secret"
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "secret")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif, pnginfo=text)
    picture = Image.open(buffer)
    picture.load()
    picture.info |= {"comment": b"secret", "xmp": b"secret", "icc_profile": b"profile"}
    data = encode(picture, file_format)
    assert b"secret" not in data
    written = Image.open(io.BytesIO(data))
    assert written.format == file_format.upper()
    assert written.info["icc_profile"] == b"profile"
    assert not written.getexif()


def test_png_is_lossless() -> None:
    written = Image.open(io.BytesIO(encode(Image.fromarray(COLOURS), "png")))
    assert written.info == {}
    assert (np.asarray(written) == COLOURS).all()


def test_jpeg_is_close() -> None:
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    written = Image.open(io.BytesIO(encode(Image.fromarray(smooth), "jpeg")))
    assert np.abs(np.asarray(written).astype(int) - smooth).max() <= 8


def test_encoding_leaves_the_picture_as_it_was() -> None:
    picture = Image.fromarray(COLOURS)
    picture.info["comment"] = b"mine"
    encode(picture, "jpeg")
    assert picture.info == {"comment": b"mine"}


def test_encoding_to_another_format_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"format: 'gif' is not one of jpeg, png"):
        encode(Image.fromarray(COLOURS), "gif")


@pytest.mark.parametrize(
    ("name", "file_format"), [("a.jpg", "jpeg"), ("a.JPEG", "jpeg"), ("dir.gif/a.png", "png")]
)
def test_format_follows_the_file_name(name: str, file_format: str) -> None:
    assert format_of(name) == file_format


@pytest.mark.parametrize("name", ["a", "a.gif", "png", ".png.txt"])
def test_file_names_of_no_format_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"^output: .*use \.png, \.jpg or \.jpeg$"):
        format_of(name)
