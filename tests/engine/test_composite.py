"""Compositing: nothing changes outside the mask; inside, a soft edge and full strokes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightfill.engine.composite import MAX_FEATHER, composite, edge_opacity

shapes = st.tuples(st.integers(1, 24), st.integers(1, 24))
masks = shapes.flatmap(lambda shape: arrays(np.bool_, shape))
feathers = st.sampled_from([0, 1, 2, 3, 5, 8, 20, MAX_FEATHER])
widths = st.integers(1, 12)


def pictures_for(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(mask.size)
    source, painted = generator.integers(0, 256, (2, *mask.shape, 3), dtype=np.uint8)
    return source, painted


def distance_to_outside(mask: np.ndarray) -> np.ndarray:
    """Euclidean distance of every pixel to the nearest one outside the mask, by brute force."""
    outside = np.argwhere(~mask)
    distances = np.full(mask.shape, np.inf)
    if len(outside):
        for place in np.argwhere(mask):
            distances[tuple(place)] = np.sqrt(((outside - place) ** 2).sum(axis=1).min())
    distances[~mask] = 0
    return distances


@given(mask=masks, feather=feathers)
def test_outside_the_mask_every_pixel_is_the_sources(mask: np.ndarray, feather: int) -> None:
    source, painted = pictures_for(mask)
    result = composite(source, painted, mask, feather)
    assert (result[~mask] == source[~mask]).all()


@given(mask=masks, feather=feathers)
def test_inside_values_lie_between_the_two_pictures(mask: np.ndarray, feather: int) -> None:
    source, painted = pictures_for(mask)
    result = composite(source, painted, mask, feather)
    assert (result >= np.minimum(source, painted)).all()
    assert (result <= np.maximum(source, painted)).all()


@given(mask=masks)
def test_without_feather_the_mask_is_replaced_whole(mask: np.ndarray) -> None:
    source, painted = pictures_for(mask)
    assert (composite(source, painted, mask, 0) == np.where(mask[..., None], painted, source)).all()


@given(mask=masks, feather=feathers)
def test_arguments_are_left_alone(mask: np.ndarray, feather: int) -> None:
    source, painted = pictures_for(mask)
    before = source.copy(), painted.copy(), mask.copy()
    result = composite(source, painted, mask, feather)
    assert all((a == b).all() for a, b in zip(before, (source, painted, mask), strict=True))
    assert not np.shares_memory(result, source)


@pytest.mark.parametrize("feather", [0, 8])
def test_full_mask_is_the_painted_picture(feather: int) -> None:
    """The picture's own edge is no border of the mask: nothing fades there."""
    mask = np.ones((9, 11), bool)
    source, painted = pictures_for(mask)
    assert (composite(source, painted, mask, feather) == painted).all()


@pytest.mark.parametrize("feather", [0, 8])
def test_empty_mask_is_the_source(feather: int) -> None:
    mask = np.zeros((9, 11), bool)
    source, painted = pictures_for(mask)
    assert (composite(source, painted, mask, feather) == source).all()


@given(mask=masks, feather=st.integers(1, 20))
def test_opacity_is_zero_outside_and_full_at_the_feathers_depth(
    mask: np.ndarray, feather: int
) -> None:
    opacity = edge_opacity(mask, feather)
    depth = distance_to_outside(mask)
    assert opacity.dtype == np.uint8
    assert (opacity[~mask] == 0).all()
    assert (opacity[depth >= feather] == 255).all()
    assert (opacity[mask] > 0).all()


@given(mask=masks, feather=st.integers(1, 20))
def test_opacity_is_never_less_than_depth_over_feather(mask: np.ndarray, feather: int) -> None:
    depth = distance_to_outside(mask)
    floor = np.rint(np.minimum(depth / feather, 1) * 255)
    assert (edge_opacity(mask, feather) >= floor).all()


def test_edge_of_a_wide_area_rises_linearly_over_the_feather() -> None:
    mask = np.zeros((5, 60), bool)
    mask[:, 20:] = True
    opacity = edge_opacity(mask, 8)
    expected = np.rint(np.minimum(np.arange(1, 41) / 8, 1) * 255)
    assert (opacity[:, 20:] == expected).all()


@given(width=widths, feather=st.integers(1, 20))
def test_middle_of_a_thin_stroke_is_fully_painted(width: int, feather: int) -> None:
    mask = np.zeros((40, 40), bool)
    mask[10 : 10 + width, 5:] = True
    opacity = edge_opacity(mask, feather)
    assert (opacity[10 + (width - 1) // 2, 25:] == 255).all()


def test_single_pixel_is_fully_painted() -> None:
    mask = np.zeros((20, 20), bool)
    mask[7, 9] = True
    source, painted = pictures_for(mask)
    assert (composite(source, painted, mask, 8)[7, 9] == painted[7, 9]).all()


@given(mask=masks, feather=st.integers(1, 20), margin=st.integers(1, 5))
def test_far_off_unpainted_pixels_change_nothing(
    mask: np.ndarray, feather: int, margin: int
) -> None:
    """The work is confined to the mask's surroundings; that must not show."""
    framed = np.pad(mask, 1)
    wide = np.pad(framed, margin)
    source, painted = pictures_for(wide)
    inner = (slice(margin, -margin), slice(margin, -margin))
    result = composite(source, painted, wide, feather)[inner]
    assert (result == composite(source[inner], painted[inner], framed, feather)).all()


@pytest.mark.parametrize("feather", [64, 180, 181, 256])
def test_wide_feathers_of_large_photos_rise_with_the_distance(feather: int) -> None:
    mask = np.zeros((8, 700), bool)
    mask[:, 50:650] = True
    expected = np.minimum(np.arange(1, 301) / feather, 1) * 255
    assert np.abs(edge_opacity(mask, feather)[4, 50:350].astype(float) - expected).max() <= 0.5
