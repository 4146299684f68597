"""Files that cost more than they say are refused; ordinary ones of the same kind are not."""

import io

import numpy as np
import pytest
from hostile_server import bmp_of_single_runs, jpeg_with_scans, tiff_with_giant_tile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightfill.engine.encoded_checks import MAX_SCANS, scans_of
from lightfill.engine.errors import ImageLoadError
from lightfill.engine.images import decode_photo


def jpeg(**options: object) -> bytes:
    noise = np.random.RandomState(0).randint(0, 256, (200, 200, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_scans_are_counted() -> None:
    assert scans_of(jpeg()) == 1
    assert scans_of(jpeg(restart_marker_blocks=1)) == 1
    assert scans_of(jpeg(progressive=True)) == 10
    base = scans_of(jpeg_with_scans(0))
    assert scans_of(jpeg_with_scans(50)) == base + 50
    assert scans_of(jpeg_with_scans(5000)) == MAX_SCANS + 1


def test_thumbnails_profiles_and_appended_films_are_not_scans_of_the_picture() -> None:
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda" * 500
    data = jpeg(exif=exif, icc_profile=b"\xff\xda" * 5000, comment=b"\xff\xda" * 500)
    assert scans_of(data + b"\xff\xda" * 500) == 1
    assert decode_photo(data + b"\xff\xda" * 500).size == (200, 200)


@given(st.binary())
def test_any_bytes_are_counted_without_failing(data: bytes) -> None:
    assert 0 <= scans_of(b"\xff\xd8" + data) <= MAX_SCANS + 1


def test_a_jpeg_of_too_many_scans_is_refused() -> None:
    scans = scans_of(jpeg_with_scans(0))
    assert decode_photo(jpeg_with_scans(MAX_SCANS - scans)).size == (2000, 2000)
    with pytest.raises(ImageLoadError, match="more than 100 scans; save it again"):
        decode_photo(jpeg_with_scans(MAX_SCANS - scans + 1))


def test_a_tiff_in_one_gigantic_tile_is_refused() -> None:
    with pytest.raises(ImageLoadError, match="tiles of 16384 pixels"):
        decode_photo(tiff_with_giant_tile())


SLOWLY_READ = {
    "values up to 254": lambda side: b"P6 %d %d 254\n" % (side, side) + bytes(3 * side * side),
    "grey up to 1000": lambda side: b"P5 %d %d 1000\n" % (side, side) + bytes(2 * side * side),
    "numbers": lambda side: b"P3 %d %d 255\n" % (side, side) + b"1 " * (3 * side * side),
    "bits as text": lambda side: b"P1 %d %d\n" % (side, side) + b"1" * (side * side),
    "run lengths": bmp_of_single_runs,
}


@pytest.mark.parametrize("kind", SLOWLY_READ)
def test_what_python_itself_decodes_has_a_lower_limit(kind: str) -> None:
    assert decode_photo(SLOWLY_READ[kind](30)).size == (30, 30)
    with pytest.raises(ImageLoadError, match="is read up to 1 megapixel only; save it as PNG"):
        decode_photo(SLOWLY_READ[kind](1001))


def test_the_usual_kinds_of_ppm_and_bmp_have_none() -> None:
    for file_format in ("PPM", "BMP"):
        for mode in ("RGB", "L"):
            buffer = io.BytesIO()
            Image.new(mode, (1100, 1000)).save(buffer, file_format)
            assert decode_photo(buffer.getvalue()).size == (1100, 1000)


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate", "tiff_lzw", "jpeg"])
def test_ordinary_tiffs_are_read(compression: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (70, 50), "red").save(buffer, "TIFF", compression=compression)
    assert decode_photo(buffer.getvalue()).size == (70, 50)


@pytest.mark.parametrize("file_format", ["EPS", "ICO", "PCX", "TGA"])
def test_formats_that_are_not_read(file_format: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, file_format)
    with pytest.raises(ImageLoadError, match="not a picture in a known format"):
        decode_photo(buffer.getvalue())


@pytest.mark.parametrize(
    "file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"]
)
def test_formats_that_are_read(file_format: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, file_format)
    assert decode_photo(buffer.getvalue()).size == (16, 16)
