"""Windows on the photo, and what reaches the canvas: sizes, shapes, and masks that never vanish."""

from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from lightfill.engine.canvas import (
    Fit,
    Window,
    choose_window,
    full_size_mask,
    latent_mask,
    mask_bounds,
    pad_to_multiple,
    place,
)
from lightfill.engine.errors import InvalidInput

sides = st.integers(1, 300)
sizes = st.tuples(sides, sides)
wanted_sizes = st.tuples(st.integers(64, 300), st.integers(64, 300))


@st.composite
def photo_and_bounds(draw: st.DrawFn) -> tuple[tuple[int, int], Window]:
    width, height = draw(sizes)
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return (width, height), Window(left, top, right, bottom)


def contains(outer: Window, inner: Window) -> bool:
    return (
        outer.left <= inner.left
        and outer.top <= inner.top
        and outer.right >= inner.right
        and outer.bottom >= inner.bottom
    )


def gradient(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def one_painted_pixel(width: int, height: int, x: int, y: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[y, x] = 255
    return mask


@given(case=photo_and_bounds(), size=wanted_sizes)
def test_stretch_is_the_whole_photo(
    case: tuple[tuple[int, int], Window], size: tuple[int, int]
) -> None:
    photo, bounds = case
    assert choose_window(photo, size, bounds, Fit.STRETCH) == Window(0, 0, *photo)


@given(case=photo_and_bounds(), size=wanted_sizes)
def test_crop_is_the_largest_window_of_the_wanted_shape(
    case: tuple[tuple[int, int], Window], size: tuple[int, int]
) -> None:
    photo, bounds = case
    window = choose_window(photo, size, bounds, Fit.CROP)
    assert contains(Window(0, 0, *photo), window)
    scale = min(photo[0] / size[0], photo[1] / size[1])
    assert (window.width, window.height) == tuple(max(1, round(side * scale)) for side in size)
    assert window.width == photo[0] or window.height == photo[1]


@given(case=photo_and_bounds(), size=wanted_sizes)
def test_crop_shows_the_mask_if_it_fits_and_its_middle_if_not(
    case: tuple[tuple[int, int], Window], size: tuple[int, int]
) -> None:
    photo, bounds = case
    window = choose_window(photo, size, bounds, Fit.CROP)
    for low, high, mask_low, mask_high in (
        (window.left, window.right, bounds.left, bounds.right),
        (window.top, window.bottom, bounds.top, bounds.bottom),
    ):
        if mask_high - mask_low <= high - low:
            assert low <= mask_low
            assert mask_high <= high
        else:
            assert abs((low + high) - (mask_low + mask_high)) <= 1


@given(case=photo_and_bounds(), size=wanted_sizes)
def test_pad_shows_the_whole_photo_in_the_middle(
    case: tuple[tuple[int, int], Window], size: tuple[int, int]
) -> None:
    photo, bounds = case
    window = choose_window(photo, size, bounds, Fit.PAD)
    assert contains(window, Window(0, 0, *photo))
    assert abs(window.left + (window.right - photo[0])) <= 1
    assert abs(window.top + (window.bottom - photo[1])) <= 1


@given(case=photo_and_bounds(), size=wanted_sizes, padding=st.floats(0, 4))
def test_crop_to_mask_always_shows_the_whole_mask(
    case: tuple[tuple[int, int], Window], size: tuple[int, int], padding: float
) -> None:
    photo, bounds = case
    window = choose_window(photo, size, bounds, Fit.CROP, padding)
    assert contains(window, bounds)
    grown = [floor(side * (1 + 2 * padding)) for side in (bounds.width, bounds.height)]
    fills_the_photo = window.width >= photo[0] - 1 or window.height >= photo[1] - 1
    assert (window.width >= grown[0] and window.height >= grown[1]) or fills_the_photo


def test_crop_to_mask_shows_no_more_than_the_photo_has() -> None:
    window = choose_window((600, 400), (256, 256), Window(200, 100, 400, 300), Fit.CROP, 4.0)
    assert (window.width, window.height) == (400, 400)
    assert window.inside((600, 400)) == window


def test_crop_to_mask_gives_a_speck_surroundings() -> None:
    speck = Window(2000, 1500, 2001, 1501)
    window = choose_window((4000, 3000), (1024, 768), speck, Fit.CROP, 0.3)
    assert (window.width, window.height) == (256, 192)  # a quarter of the working size
    assert contains(window, speck)


def test_crop_follows_the_mask_to_the_photos_edge() -> None:
    bounds = Window(280, 10, 300, 20)
    assert choose_window((300, 100), (64, 64), bounds, Fit.CROP) == Window(200, 0, 300, 100)


@given(
    case=photo_and_bounds(),
    size=wanted_sizes,
    fit=st.sampled_from(Fit),
    padding=st.none() | st.floats(0, 4),
)
def test_canvas_has_exactly_the_size_asked_for_and_the_mask_on_it(
    case: tuple[tuple[int, int], Window],
    size: tuple[int, int],
    fit: Fit,
    padding: float | None,
) -> None:
    photo, bounds = case
    pixels = gradient(*photo)
    mask = np.zeros(photo[::-1], np.uint8)
    mask[bounds.top : bounds.bottom, bounds.left : bounds.right] = 255
    window = choose_window(photo, size, bounds, fit, padding)
    canvas = place(pixels, mask, window, size)
    assert canvas.size == size
    assert canvas.mask.shape == size[::-1]
    assert canvas.mask.any()
    outside = canvas.mask.copy()
    box = canvas.photo_box
    outside[box.top : box.bottom, box.left : box.right] = False
    assert not outside.any(), "the margin of a padded photo is never painted"


def test_stretched_pixels_are_pillows_lanczos() -> None:
    pixels = gradient(120, 80)
    canvas = place(pixels, one_painted_pixel(120, 80, 5, 5), Window(0, 0, 120, 80), (64, 96))
    expected = Image.fromarray(pixels).resize((64, 96), Image.Resampling.LANCZOS)
    assert (canvas.pixels == np.asarray(expected)).all()


def test_window_at_its_own_size_is_copied_untouched() -> None:
    pixels = gradient(200, 150)
    canvas = place(pixels, one_painted_pixel(200, 150, 50, 50), Window(30, 20, 130, 100), (100, 80))
    assert (canvas.pixels == pixels[20:100, 30:130]).all()
    assert np.argwhere(canvas.mask).tolist() == [[30, 20]]


def test_padding_continues_the_photos_edge_pixels() -> None:
    pixels = gradient(64, 32)
    window = Window(0, -16, 64, 48)
    canvas = place(pixels, one_painted_pixel(64, 32, 5, 5), window, (64, 64))
    assert canvas.photo_box == Window(0, 16, 64, 48)
    assert (canvas.pixels[16:48] == pixels).all()
    assert (canvas.pixels[:16] == pixels[0]).all()
    assert (canvas.pixels[48:] == pixels[-1]).all()


@given(
    mask_size=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    photo_size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    where=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
)
def test_one_painted_pixel_survives_any_change_of_size(
    mask_size: tuple[int, int], photo_size: tuple[int, int], where: tuple[float, float]
) -> None:
    x, y = (int(side * part) for side, part in zip(mask_size, where, strict=True))
    painted = full_size_mask(one_painted_pixel(*mask_size, x, y), photo_size)
    column, row = (
        int((place + 0.5) * new / old)
        for place, new, old in zip((x, y), photo_size, mask_size, strict=True)
    )
    assert painted[row, column]


@pytest.mark.parametrize("side", [11, 13, 17, 25, 64])
def test_one_painted_pixel_survives_being_enlarged_a_little(side: int) -> None:
    """Where every new pixel lies between old ones, so that none takes a full share of it."""
    for x in range(10):
        for y in range(10):
            painted = full_size_mask(one_painted_pixel(10, 10, x, y), (side, side))
            assert painted[int((y + 0.5) * side / 10), int((x + 0.5) * side / 10)]


def test_one_painted_pixel_survives_on_a_twelve_megapixel_photo() -> None:
    mask = one_painted_pixel(4000, 3000, 1999, 1501)
    assert full_size_mask(mask, (64, 64)).sum() == 1


@given(
    mask=arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    photo_size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_mask_of_another_size_is_painted_where_it_touches_or_at_the_centre(
    mask: np.ndarray, photo_size: tuple[int, int]
) -> None:
    height, width = mask.shape
    painted = full_size_mask(mask.astype(np.uint8) * np.uint8(255), photo_size)
    for row in range(photo_size[1]):
        for column in range(photo_size[0]):
            seen = mask[seen_by(row, photo_size[1], height), seen_by(column, photo_size[0], width)]
            assert painted[row, column] == seen.any()


def seen_by(part: int, parts: int, pixels: int) -> slice:
    """Mask pixels that decide one of `parts`: all it touches, or the one at its centre."""
    start, end = part * pixels / parts, (part + 1) * pixels / parts
    if pixels < parts:
        centre = (2 * part + 1) * pixels // (2 * parts)
        return slice(centre, centre + 1)
    return slice(floor(start + 1e-6), ceil(end - 1e-6))


def test_mask_threshold_is_half() -> None:
    mask = np.array([[127, 128, 0, 255]], np.uint8)
    assert full_size_mask(mask, (4, 1)).tolist() == [[False, True, False, True]]


def test_bounds_are_in_photo_pixels_and_cover_the_paint() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[2:4, 5:9] = 255
    assert mask_bounds(mask, (10, 10)) == Window(5, 2, 9, 4)
    assert mask_bounds(mask, (200, 100)) == Window(100, 20, 180, 40)
    assert mask_bounds(mask, (5, 5)) == Window(2, 1, 5, 2)


@pytest.mark.parametrize("level", [0, 127])
def test_mask_with_nothing_white_is_refused(level: int) -> None:
    with pytest.raises(InvalidInput, match=r"^mask: .* paint the area to replace white$"):
        mask_bounds(np.full((4, 4), level, np.uint8), (4, 4))


@pytest.mark.parametrize("shape", [(64, 64), (65, 96), (1, 127)])
def test_padding_reaches_multiples_of_32_at_the_bottom_and_right(shape: tuple[int, int]) -> None:
    pixels = gradient(*shape[::-1])
    padded = pad_to_multiple(pixels, "edge")
    assert padded.shape[:2] == tuple(ceil(side / 32) * 32 for side in shape)
    assert (padded[: shape[0], : shape[1]] == pixels).all()
    assert (padded[shape[0] :, : shape[1]] == pixels[-1]).all()
    mask = pad_to_multiple(np.ones(shape, bool), "constant")
    assert mask.sum() == shape[0] * shape[1]


@given(mask=arrays(np.bool_, (24, 16)))
def test_latent_cell_is_painted_when_any_of_its_pixels_is(mask: np.ndarray) -> None:
    cells = latent_mask(mask)
    assert cells.shape == (1, 1, 3, 2)
    assert cells.dtype == np.float32
    for row in range(3):
        for column in range(2):
            block = mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert cells[0, 0, row, column] == block.any()


def test_nearest_latent_mask_looks_at_one_pixel_as_diffusers_does() -> None:
    mask = np.zeros((16, 16), bool)
    mask[8, 8] = mask[1, 1] = True
    assert latent_mask(mask, nearest=True)[0, 0].tolist() == [[0, 0], [0, 1]]


def test_diffusers_mask_is_lanczos_then_threshold() -> None:
    mask = one_painted_pixel(160, 160, 80, 80)
    window = Window(0, 0, 160, 160)
    pixels = gradient(160, 160)
    assert not place(pixels, mask, window, (64, 64), lanczos_mask=True).mask.any()
    assert place(pixels, mask, window, (64, 64)).mask.any()
    mask[40:120, 30:90] = 255
    expected = Image.fromarray(mask).resize((64, 64), Image.Resampling.LANCZOS)
    placed = place(pixels, mask, window, (64, 64), lanczos_mask=True).mask
    assert (placed == (np.asarray(expected) >= 128)).all()
