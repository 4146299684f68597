"""Training scenes: a thing where the mask is, of the colour and shape its caption says."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightfill.export.demo.scenes import FILLS, Scene, captioned, scene
from lightfill.export.demo.shapes import COLOURS, SHAPES, coverage, painted
from lightfill.export.demo.textures import TEXTURES


def drawn(seed: int, edge: int = 128, photos: tuple[np.ndarray, ...] = ()) -> Scene:
    return scene(edge, np.random.Generator(np.random.PCG64(seed)), photos)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_touch_all_sides_and_have_smooth_edges(shape: str) -> None:
    cover = coverage(shape, 64, 48)
    assert cover.shape == (48, 64)
    assert cover.min() >= 0
    assert cover.max() == 1
    assert (cover.min() == 0) == (shape != "square")
    for side in (cover[:2], cover[-2:], cover[:, :2], cover[:, -2:]):
        assert side.max() > 0.1
    if shape != "square":
        assert 0 < ((cover > 0) & (cover < 1)).mean() < 0.2


def test_shapes_differ_in_much_of_their_box() -> None:
    covers = {name: coverage(name, 64, 64) for name in SHAPES if name != "ball"}
    for (one, first), (other, second) in combinations(covers.items(), 2):
        assert np.abs(first - second).mean() > 0.06, (one, other)


def test_areas_are_those_of_geometry() -> None:
    share = {name: float(coverage(name, 256, 256).mean()) for name in SHAPES}
    expected = {"circle": np.pi / 4, "square": 1, "triangle": 0.5, "diamond": 0.5, "cross": 5 / 9}
    for name, area in expected.items():
        assert share[name] == pytest.approx(area, abs=0.01), name
    assert 0.25 < share["star"] < 0.45 < 0.6 < share["heart"] < 0.75


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_is_nearest_to_itself_on_every_shape(colour: str) -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    names, values = list(COLOURS), np.array(list(COLOURS.values()))
    for shape in SHAPES.keys() - {"ball"}:  # whose shade darkens it
        for _ in range(20):
            mean = np.median(painted(shape, colour, 32, 32, draw).reshape(-1, 3), axis=0)
            assert names[int(np.abs(values - mean).sum(axis=1).argmin())] == colour


def test_a_ball_is_lit_from_above_on_the_left() -> None:
    ball = painted("ball", "red", 64, 64, np.random.Generator(np.random.PCG64(0))).sum(axis=2)
    assert ball[20, 20] > ball[32, 32] > ball[54, 54]


@pytest.mark.parametrize("name", TEXTURES)
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_textures_fill_their_size_and_never_repeat(name: str, size: tuple[int, int]) -> None:
    draw = np.random.Generator(np.random.PCG64(1))
    first, second = TEXTURES[name](*size, draw), TEXTURES[name](*size, draw)
    assert first.shape == (*size, 3)
    assert first.dtype == np.uint8
    assert first.std(axis=(0, 1)).min() > 1
    assert (first != second).any()


def test_textures_have_mean_colours_of_their_own() -> None:
    draw = np.random.Generator(np.random.PCG64(2))
    means = {
        name: np.mean([texture(64, 64, draw).mean(axis=(0, 1)) for _ in range(8)], axis=0)
        for name, texture in TEXTURES.items()
    }
    for one, mean in means.items():
        others = [np.abs(mean - other).max() for name, other in means.items() if name != one]
        assert min(others) > 15, one


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), edge=st.sampled_from([64, 128, 256]))
def test_every_scene_says_what_it_shows(seed: int, edge: int) -> None:
    found = drawn(seed, edge)
    assert found.picture.shape == (edge, edge, 3)
    assert found.mask.shape == (edge, edge)
    assert set(np.unique(found.mask)) <= {0, 255}
    assert 0.04 < (found.mask > 0).mean() < 0.95
    if found.thing is None:
        assert found.caption.startswith(str(found.ground))
        return
    colour, shape = found.thing
    assert f"{colour} {shape}" in found.caption
    again = drawn(seed, edge)
    assert (again.picture == found.picture).all()
    assert again.caption == found.caption


@pytest.mark.parametrize("seed", range(40))
def test_what_changes_lies_inside_the_mask(seed: int) -> None:
    found = drawn(seed)
    changed = (found.before != found.picture).any(axis=2)
    assert changed[found.mask == 0].mean() < 0.02
    if found.thing is not None:
        assert changed[found.mask > 0].mean() > 0.15


def test_things_are_removed_and_replaced_as_well_as_added() -> None:
    scenes = [drawn(seed, 64) for seed in range(300)]
    fills = [each for each in scenes if each.thing is None]
    removed = sum((each.before != each.picture).any() for each in fills)
    assert 0.5 < removed / len(fills) < 0.9


def test_captions_colours_and_shapes_all_come_up() -> None:
    scenes = [drawn(seed, 64) for seed in range(600)]
    things = [each.thing for each in scenes if each.thing]
    assert len({colour for colour, _ in things}) == len(COLOURS)
    assert len({shape for _, shape in things}) == len(SHAPES)
    assert {each.ground for each in scenes} == set(TEXTURES)
    assert abs(1 - len(things) / 600 - FILLS) < 0.06
    assert any(" on " in each.caption for each in scenes)


def test_captions_alone_are_those_of_scenes() -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    said = [captioned(draw) for _ in range(400)]
    assert abs(sum(thing is None for _, thing, _ in said) / 400 - FILLS) < 0.07
    for caption, thing, ground in said:
        assert thing is None or " ".join(thing) in caption
        assert ground is None or ground in caption
    assert {thing[0] for _, thing, _ in said if thing} == set(COLOURS)


def test_photos_are_grounds_of_half_the_things() -> None:
    photo = np.full((90, 120, 3), 77, np.uint8)
    scenes = [drawn(seed, 64, (photo,)) for seed in range(300)]
    on_photo = [each for each in scenes if each.ground is None]
    assert 0.25 < len(on_photo) / 300 < 0.5
    assert all(each.thing for each in on_photo)
    assert all((each.picture[each.mask == 0] == 77).mean() > 0.95 for each in on_photo)
