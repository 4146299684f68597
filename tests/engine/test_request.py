"""Every option is checked once: what is accepted, what it becomes, and how refusals read."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightfill.engine.canvas import Fit
from lightfill.engine.denoise import Blend
from lightfill.engine.errors import InvalidInput
from lightfill.engine.request import (
    IMAGE_SIZES,
    MAX_PROMPT,
    Request,
    resolve_image_size,
    validated,
)

DEFAULTS: dict[str, Any] = {
    "prompt": "a red ball",
    "image_size": "square_hd",
    "steps": 4,
    "strength": 0.95,
    "seed": 7,
    "num_images": 1,
    "fit": "crop",
    "crop_to_mask": None,
    "feather": 8,
    "blend": "context",
    "composite": True,
}


def request(**changed: Any) -> Request:
    return validated(**(DEFAULTS | changed))


def refusal(field: str, **changed: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        request(**changed)
    assert caught.value.field == field
    message = str(caught.value)
    assert message.startswith(f"{field}: ")
    assert "\n" not in message
    return message


def test_defaults_resolve() -> None:
    resolved = request()
    assert resolved.image_size == (1024, 1024)
    assert resolved.seeds == (7,)
    assert resolved.seed == 7
    assert (resolved.fit, resolved.blend) == (Fit.CROP, Blend.CONTEXT)


@pytest.mark.parametrize("name", IMAGE_SIZES)
def test_presets_are_fals(name: str) -> None:
    fals = {
        "square_hd": (1024, 1024),
        "square": (512, 512),
        "portrait_4_3": (768, 1024),
        "portrait_16_9": (576, 1024),
        "landscape_4_3": (1024, 768),
        "landscape_16_9": (1024, 576),
    }
    assert IMAGE_SIZES[name] == fals[name] == resolve_image_size(name)
    assert len(IMAGE_SIZES) == len(fals)


@given(width=st.integers(64, 2048), height=st.integers(64, 2048))
def test_every_spelling_of_a_size_means_the_same(width: int, height: int) -> None:
    spellings = (
        f"{width}x{height}",
        (width, height),
        [width, height],
        {"width": width, "height": height},
        {"height": height, "width": width},
        (np.int64(width), np.int32(height)),
    )
    assert {resolve_image_size(spelling) for spelling in spellings} == {(width, height)}


def test_source_means_the_photos_own_size() -> None:
    assert resolve_image_size("source") is None


@pytest.mark.parametrize(
    "size",
    [
        "", "x", "big", "64", "64x", "x64", "64x64x64", "-64x64", "64.0x64", "63x64", "64x2049",
        "0x0", "9" * 5000 + "x64", (63, 64), (64, 2049), (64,), (64, 64, 3), (64.0, 64),
        (True, 64), ("a", 64),
        {"width": 64}, {"width": 64, "height": 64, "depth": 1}, {"width": None, "height": 64},
        {"w": 64, "h": 64}, None, 512, 64.5, np.array([64, 64]), float("nan"),
    ],
    ids=lambda size: repr(size)[:30],
)  # fmt: skip
def test_other_sizes_are_refused(size: Any) -> None:
    refusal("image_size", image_size=size)


@pytest.mark.parametrize("value", [0.01, 0.5, 1, 1.0, np.float32(0.25), np.int64(1)])
def test_strengths_accepted(value: Any) -> None:
    strength = request(strength=value).strength
    assert type(strength) is float
    assert strength == value


@pytest.mark.parametrize(
    "value",
    [
        0,
        0.0,
        0.0099,
        1.0001,
        1.5,
        -1,
        float("nan"),
        float("inf"),
        10**400,
        "0.5",
        None,
        True,
        [0.5],
        1j,
        np.complex64(1),
    ],
)
def test_strengths_refused(value: Any) -> None:
    assert "0.01 to 1" in refusal("strength", strength=value)


@pytest.mark.parametrize("value", [1, 2, 8, "4", np.int8(4)])
def test_steps_accepted_also_as_fals_text(value: Any) -> None:
    assert request(steps=value).steps == int(value)


@pytest.mark.parametrize(
    "value", [0, -1, 1001, 4.0, "9" * 5000, "four", "4.0", "-4", "", None, True, [4]]
)
def test_steps_refused(value: Any) -> None:
    assert "from 1 to 1000" in refusal("steps", steps=value)


@pytest.mark.parametrize("value", [0, 2**31, 2**64 - 1, np.uint64(2**64 - 1), "12"])
def test_seeds_accepted(value: Any) -> None:
    seed = request(seed=value).seed
    assert type(seed) is int
    assert seed == int(value)


@pytest.mark.parametrize("value", [-1, 2**64, 1.0, "x", True, [1]])
def test_seeds_refused(value: Any) -> None:
    refusal("seed", seed=value)


def test_no_seed_draws_another_each_time_from_32_bits() -> None:
    drawn = {request(seed=None).seed for _ in range(20)}
    assert len(drawn) > 15
    assert all(0 <= seed < 2**32 for seed in drawn)


def test_pictures_have_successive_seeds_that_wrap_round() -> None:
    assert request(seed=5, num_images=3).seeds == (5, 6, 7)
    assert request(seed=2**64 - 1, num_images=2).seeds == (2**64 - 1, 0)


@pytest.mark.parametrize("value", [0, 9, -1, 1.0, None, True, "many"])
def test_picture_counts_refused(value: Any) -> None:
    assert "from 1 to 8" in refusal("num_images", num_images=value)


@pytest.mark.parametrize("value", [-1, 65, 1.5, None, True])
def test_feathers_refused(value: Any) -> None:
    assert "from 0 to 64" in refusal("feather", feather=value)


@pytest.mark.parametrize("value", [None, 0, 0.5, 4])
def test_crops_to_mask_accepted(value: Any) -> None:
    assert request(crop_to_mask=value).crop_to_mask == value


@pytest.mark.parametrize("value", [-0.1, 4.1, float("nan"), "0.5", True])
def test_crops_to_mask_refused(value: Any) -> None:
    assert "from 0 to 4" in refusal("crop_to_mask", crop_to_mask=value)


@pytest.mark.parametrize("field", ["fit", "blend"])
@pytest.mark.parametrize("value", ["", "CROP", "other", None, 1, []])
def test_choices_refused_list_what_there_is(field: str, value: Any) -> None:
    choices = {"fit": "crop, stretch, pad", "blend": "context, diffusers"}[field]
    assert f"is not one of {choices}" in refusal(field, **{field: value})


def test_prompts_have_a_limit() -> None:
    assert request(prompt="a" * MAX_PROMPT).prompt == "a" * MAX_PROMPT
    assert "100001 characters, 100000 may be" in refusal("prompt", prompt="a" * (MAX_PROMPT + 1))


@pytest.mark.parametrize("value", [None, 3, b"text", ["a"]])
def test_prompts_must_be_text(value: Any) -> None:
    refusal("prompt", prompt=value)


@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            name: st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=8)
            | st.lists(st.integers(), max_size=3)
            | st.dictionaries(st.text(max_size=6), st.integers(), max_size=3)
            for name in DEFAULTS
        },
    )
)
def test_any_value_is_accepted_or_refused_by_name(options: dict[str, Any]) -> None:
    refused_field = None
    try:
        request(**options)
    except InvalidInput as error:
        refused_field = error.field
    assert refused_field is None or refused_field in options
