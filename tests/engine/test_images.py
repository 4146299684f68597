"""Pictures of every mode, dtype and orientation become RGB or a mask."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lightfill.engine.images import decode_mask, decode_photo

GREY = np.array([[0, 1, 100], [128, 200, 255]], np.uint8)
ALPHA = np.array([[255, 128, 0], [64, 255, 10]], np.uint8)
COLOURS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 255], [0, 0, 0], [128, 128, 128]]],
    np.uint8,
)
ORIENTATION = 0x0112

MakeCase = Callable[[], tuple[Image.Image, np.ndarray]]


def grey_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Alpha compositing by its definition, independently of Pillow."""
    opacity = alpha[..., None] / 255
    return np.rint(values * opacity + 255 * (1 - opacity))


def bilevel() -> tuple[Image.Image, np.ndarray]:
    return Image.fromarray(GREY >= 128), grey_rgb(np.where(GREY >= 128, 255, 0))


def grey_alpha() -> tuple[Image.Image, np.ndarray]:
    picture = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    return picture, over_white(grey_rgb(GREY), ALPHA)


def grey_premultiplied() -> tuple[Image.Image, np.ndarray]:
    picture, expected = grey_alpha()
    return picture.convert("La"), expected


def palette() -> tuple[Image.Image, np.ndarray]:
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).convert("P")
    picture.putpalette(COLOURS.reshape(-1).tolist())
    return picture, COLOURS


def palette_transparent() -> tuple[Image.Image, np.ndarray]:
    """Index 2 fully transparent, index 0 half: the two ways a palette file spells transparency."""
    picture, _ = palette()
    picture.info["transparency"] = bytes([128, 255, 0])
    alpha = np.array([[128, 255, 0], [255, 255, 255]], np.uint8)
    return picture, over_white(COLOURS, alpha)


def palette_one_transparent_index() -> tuple[Image.Image, np.ndarray]:
    picture, _ = palette()
    picture.info["transparency"] = 4
    alpha = np.array([[255, 255, 255], [255, 0, 255]], np.uint8)
    return picture, over_white(COLOURS, alpha)


def transparent_colour() -> tuple[Image.Image, np.ndarray]:
    picture = Image.fromarray(COLOURS)
    picture.info["transparency"] = (0, 0, 255)
    expected = COLOURS.copy()
    expected[0, 2] = 255
    return picture, expected


def rgb_alpha() -> tuple[Image.Image, np.ndarray]:
    picture = Image.fromarray(COLOURS)
    picture.putalpha(Image.fromarray(ALPHA))
    return picture, over_white(COLOURS, ALPHA)


def rgb_premultiplied() -> tuple[Image.Image, np.ndarray]:
    picture, expected = rgb_alpha()
    return picture.convert("RGBa"), expected


def inks() -> tuple[Image.Image, np.ndarray]:
    cmyk = np.array([[[0, 255, 255, 0], [10, 20, 30, 40], [0, 0, 0, 255]]], np.uint8)
    expected = (255.0 - cmyk[..., :3]) * (255.0 - cmyk[..., 3:]) / 255
    return Image.fromarray(cmyk, mode="CMYK"), expected


def luma_chroma() -> tuple[Image.Image, np.ndarray]:
    return Image.fromarray(COLOURS).convert("YCbCr"), COLOURS


def cie_lab() -> tuple[Image.Image, np.ndarray]:
    """sRGB red, white and black in D50 Lab, the 8-bit encoding of ICC profiles."""
    lab = [(54.29, 80.81, 69.89), (100, 0, 0), (0, 0, 0)]
    encoded = np.rint(np.array([lab]) * (2.55, 1, 1) + (0, 128, 128))
    bands = [Image.fromarray(band.astype(np.uint8)) for band in encoded.transpose(2, 0, 1)]
    return Image.merge("LAB", bands), np.array([[[255, 0, 0], [255] * 3, [0] * 3]])


def hue_saturation() -> tuple[Image.Image, np.ndarray]:
    hsv = np.array([[[0, 255, 255], [85, 255, 255], [170, 255, 255], [0, 0, 77]]], np.uint8)
    bands = [Image.fromarray(np.ascontiguousarray(band)) for band in hsv.transpose(2, 0, 1)]
    return Image.merge("HSV", bands), np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [77] * 3]])


def wide_grey(mode: str) -> MakeCase:
    def make() -> tuple[Image.Image, np.ndarray]:
        picture = Image.fromarray(GREY.astype(np.uint16) * 257)
        return (picture if mode == "I;16" else picture.convert("I").convert(mode)), grey_rgb(GREY)

    return make


def float_grey() -> tuple[Image.Image, np.ndarray]:
    return Image.fromarray((GREY / 255).astype(np.float32)), grey_rgb(GREY)


MODES: dict[str, tuple[MakeCase, int]] = {  # mode, and the rounding its conversion may cost
    "1": (bilevel, 0),
    "L": (lambda: (Image.fromarray(GREY), grey_rgb(GREY)), 0),
    "LA": (grey_alpha, 1),
    "La": (grey_premultiplied, 2),
    "P": (palette, 0),
    "P, alpha per index": (palette_transparent, 1),
    "P, transparent index": (palette_one_transparent_index, 0),
    "RGB": (lambda: (Image.fromarray(COLOURS), COLOURS), 0),
    "RGB, transparent colour": (transparent_colour, 0),
    "RGBX": (lambda: (Image.fromarray(COLOURS).convert("RGBX"), COLOURS), 0),
    "RGBA": (rgb_alpha, 1),
    "RGBa": (rgb_premultiplied, 2),
    "CMYK": (inks, 1),
    "YCbCr": (luma_chroma, 2),
    "LAB": (cie_lab, 6),
    "HSV": (hue_saturation, 2),
    "I;16": (wide_grey("I;16"), 0),
    "I;16B": (wide_grey("I;16B"), 0),
    "I": (wide_grey("I"), 0),
    "F": (float_grey, 0),
}


@pytest.mark.parametrize("mode", MODES)
def test_photo_of_every_mode_becomes_the_rgb_a_viewer_shows(mode: str) -> None:
    make, tolerance = MODES[mode]
    picture, expected = make()
    assert mode.startswith(picture.mode)
    pixels = decode_photo(picture).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected.astype(float)).max() <= tolerance


@pytest.mark.parametrize("mode", MODES)
def test_mask_of_every_mode_is_one_channel(mode: str) -> None:
    make, tolerance = MODES[mode]
    picture, expected = make()
    mask = decode_mask(picture)
    assert mask.dtype == np.uint8
    assert mask.shape == expected.shape[:2]
    if "a" not in picture.mode.lower() and "transparency" not in picture.info:
        brightness = expected @ (0.299, 0.587, 0.114)
        assert np.abs(mask - brightness).max() <= tolerance + 1


@pytest.mark.parametrize(
    "array",
    [
        GREY,
        GREY[..., None],
        COLOURS,
        GREY.astype(np.uint16) * 257,
        COLOURS.astype(np.uint16) * 257,
        GREY / 255,
        (COLOURS / 255).astype(np.float32),
        (COLOURS / 255).astype(np.float16),
        COLOURS[:, ::-1][:, ::-1],
        np.asfortranarray(COLOURS),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_every_dtype_and_shape_keep_their_values(array: np.ndarray) -> None:
    expected = COLOURS if array.ndim == 3 and array.shape[2] == 3 else grey_rgb(GREY)
    assert (decode_photo(array).pixels == expected).all()


def test_arrays_with_alpha_are_shown_over_white() -> None:
    rgba = np.dstack([COLOURS, ALPHA])
    assert np.abs(decode_photo(rgba).pixels - over_white(COLOURS, ALPHA)).max() <= 1
    grey_and_alpha = np.dstack([GREY, ALPHA])
    expected = over_white(grey_rgb(GREY), ALPHA)
    assert np.abs(decode_photo(grey_and_alpha).pixels - expected).max() <= 1


def test_bool_array_is_a_mask() -> None:
    assert (decode_mask(GREY > 100) == np.where(GREY > 100, 255, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    """The stored picture is the upright one under the inverse of what the tag asks for."""
    asked = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(COLOURS).save(path, exif=exif)
    upright = asked[orientation](COLOURS)
    assert (decode_photo(path).pixels == upright).all()
    assert decode_mask(path).shape == upright.shape[:2]


def test_sixteen_bit_png_keeps_every_eight_bit_value() -> None:
    every = np.arange(256, dtype=np.uint16).reshape(16, 16)
    buffer = io.BytesIO()
    Image.fromarray(every * 257).save(buffer, "PNG")
    assert (decode_photo(buffer.getvalue()).pixels[..., 0] == every).all()
    assert (decode_mask(buffer.getvalue()) == every).all()


def test_sixteen_bits_are_rounded_to_the_nearest_level() -> None:
    wide = np.array([[0, 128, 129, 385, 386, 65406, 65407, 65535]], np.uint16)
    assert decode_photo(wide).pixels[0, :, 0].tolist() == [0, 0, 1, 1, 2, 254, 255, 255]


def test_path_string_bytes_and_picture_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(COLOURS).save(path)
    data = path.read_bytes()
    sources = [path, str(path), data, bytearray(data), memoryview(data), Image.open(path), COLOURS]
    for source in sources:
        assert (decode_photo(source).pixels == COLOURS).all()


def test_colour_profile_of_an_rgb_file_is_kept_and_of_others_dropped(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(COLOURS).save(tmp_path / "rgb.jpg", icc_profile=profile)
    Image.fromarray(GREY).save(tmp_path / "grey.png", icc_profile=profile)
    assert decode_photo(tmp_path / "rgb.jpg").icc_profile == profile
    assert decode_photo(tmp_path / "grey.png").icc_profile is None


def test_strokes_of_one_colour_on_transparency_are_the_mask() -> None:
    black_strokes = np.dstack([np.zeros((2, 3, 3), np.uint8), ALPHA])
    assert (decode_mask(black_strokes) == ALPHA).all()


def test_painted_layer_counts_brightness_times_opacity() -> None:
    grey = np.array([[255, 0, 255, 128]], np.uint8)
    alpha = np.array([[255, 255, 0, 128]], np.uint8)
    assert decode_mask(np.dstack([grey_rgb(grey), alpha])).tolist() == [[255, 0, 0, 64]]


def test_opaque_alpha_does_not_make_a_mask_white() -> None:
    opaque = np.full_like(GREY, 255)
    assert (decode_mask(np.dstack([grey_rgb(GREY), opaque])) == GREY).all()


def test_fully_transparent_mask_repaints_nothing() -> None:
    assert not decode_mask(np.zeros((3, 4, 4), np.uint8)).any()
