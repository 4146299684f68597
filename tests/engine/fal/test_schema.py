"""The schema is fal's to the letter; mistakes come back as fal lists them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightfill.engine.errors import RequestInvalid
from lightfill.engine.fal import schema
from lightfill.engine.fal.schema import error_body, validated
from lightfill.engine.request import IMAGE_SIZES

PUBLISHED = json.loads((Path(__file__).parent / "inpainting-schema.json").read_text("utf-8"))
OURS = {
    "InpaintingLightningInput": schema.InpaintingInput,
    "Output": schema.InpaintingOutput,
    "ImageSize": schema.ImageSize,
    "Embedding": schema.Embedding,
    "Image": schema.Image,
    "LoraWeight": schema.LoraWeight,
}
NEEDED = {"image_url": "https://a.test/i.png", "mask_url": "https://a.test/m.png", "prompt": "cat"}
DOCUMENTED = {
    **NEEDED,
    "image_size": "square_hd",
    "num_inference_steps": 4,
    "strength": 0.95,
    "num_images": 1,
    "embeddings": [],
    "format": "jpeg",
}


def without_notes(value: Any) -> Any:
    """The reference's `x-note` are remarks about the schema, not parts of it."""
    if isinstance(value, dict):
        return {key: without_notes(entry) for key, entry in value.items() if key != "x-note"}
    return [without_notes(entry) for entry in value] if isinstance(value, list) else value


def items(arguments: Any) -> list[dict[str, Any]]:
    with pytest.raises(RequestInvalid) as caught:
        validated(arguments)
    status, body = error_body(caught.value)
    assert status == 422
    assert list(body) == ["detail"]
    json.dumps(body, allow_nan=False)
    detail: list[dict[str, Any]] = body["detail"]
    return detail


@pytest.mark.parametrize("name", OURS)
def test_the_generated_json_schema_is_the_published_one(name: str) -> None:
    generated = OURS[name].model_json_schema(ref_template="#/schemas/{model}")
    definitions = generated.pop("$defs", {})
    assert generated == without_notes(PUBLISHED["schemas"][name])
    for inner, definition in definitions.items():
        assert definition == without_notes(PUBLISHED["schemas"][inner])


def test_every_published_schema_but_the_queues_is_compared() -> None:
    assert set(PUBLISHED["schemas"]) - set(OURS) == {"QueueStatus"}


def test_the_generated_order_is_the_published_one() -> None:
    generated = schema.InpaintingInput.model_json_schema()
    published = PUBLISHED["schemas"]["InpaintingLightningInput"]
    assert list(generated["properties"]) == list(published["properties"])


def test_presets_are_the_published_ones() -> None:
    published = {
        name: (size["width"], size["height"]) for name, size in PUBLISHED["presets"].items()
    }
    assert dict(IMAGE_SIZES) == published


def test_extensions_are_in_the_subclass_only_and_change_nothing_by_default() -> None:
    added = set(schema.LightfillInput.model_fields) - set(schema.InpaintingInput.model_fields)
    assert added == {"loras", "mask_crop_padding", "fit", "feather", "preview"}
    request = validated(NEEDED)
    assert (request.loras, request.mask_crop_padding, request.preview) == ([], None, False)


def test_the_documentations_example_and_its_defaults() -> None:
    assert validated(DOCUMENTED) == validated(NEEDED)
    request = validated(NEEDED)
    assert request.seed is None
    assert request.enable_safety_checker
    assert (request.sync_mode, request.safety_checker_version) == (False, "v1")


@pytest.mark.parametrize("steps", ["1", "2", "4", "8", 1, 2, 4, 8])
def test_steps_are_text_or_number(steps: str | int) -> None:
    assert validated({**NEEDED, "num_inference_steps": steps}).num_inference_steps == int(steps)


@pytest.mark.parametrize("steps", ["3", 3, "", "four", 4.5, None, [4], "04", "\u0664"])
def test_other_steps_are_refused(steps: Any) -> None:
    (item,) = items({**NEEDED, "num_inference_steps": steps})
    assert item["loc"] == ["body", "num_inference_steps"]


def test_unknown_fields_are_ignored() -> None:
    request = validated({**NEEDED, "negative_prompt": "dog", "guidance_scale": 7})
    assert not hasattr(request, "negative_prompt")


def test_an_empty_size_is_512_squared_and_optional_values_may_be_null() -> None:
    request = validated({**NEEDED, "image_size": {}, "seed": None, "mask_crop_padding": None})
    assert request.image_size == schema.ImageSize(width=512, height=512)


def test_all_missing_fields_are_listed_as_pydantic_words_them() -> None:
    found = items({})
    assert [item["loc"] for item in found] == [["body", name] for name in NEEDED]
    assert {(item["type"], item["msg"]) for item in found} == {("missing", "Field required")}


@pytest.mark.parametrize(
    ("field", "value", "kind", "where"),
    [
        ("image_size", "huge", "literal_error", ["image_size"]),
        ("image_size", 7, "model_type", ["image_size"]),
        ("image_size", None, "model_type", ["image_size"]),
        ("image_size", {"width": 0}, "greater_than", ["image_size", "width"]),
        ("image_size", {"height": 20000}, "less_than_equal", ["image_size", "height"]),
        ("image_url", 5, "string_type", ["image_url"]),
        ("strength", 0.001, "greater_than_equal", ["strength"]),
        ("strength", math.nan, "less_than_equal", ["strength"]),
        ("strength", "high", "float_parsing", ["strength"]),
        ("num_images", 9, "less_than_equal", ["num_images"]),
        ("seed", 2**64, "value_error", ["seed"]),
        pytest.param("seed", 1 << 20000, "value_error", ["seed"], id="huge"),
        ("seed", 1.5, "int_from_float", ["seed"]),
        ("mask_crop_padding", -1, "greater_than_equal", ["mask_crop_padding"]),
        ("mask_crop_padding", "wide", "float_parsing", ["mask_crop_padding"]),
        ("embeddings", [{"tokens": ["a"]}], "missing", ["embeddings", 0, "path"]),
        ("loras", [{"path": "x", "scale": 2}], "less_than_equal", ["loras", 0, "scale"]),
        ("format", "webp", "literal_error", ["format"]),
        ("fit", "squash", "enum", ["fit"]),
    ],
)
def test_one_mistake_is_one_item_that_ends_in_the_field(
    field: str, value: Any, kind: str, where: list[str | int]
) -> None:
    (item,) = items({**NEEDED, field: value})
    assert item["loc"] == ["body", *where]
    assert item["type"] == kind
    assert set(item) <= {"type", "loc", "msg", "input", "ctx"}


def test_arguments_that_are_no_mapping() -> None:
    for arguments in ([], "text", None, 3):
        (item,) = items(arguments)
        assert item["loc"] == ["body"]


def test_an_error_does_not_repeat_the_callers_50_megabytes() -> None:
    body = {"image_url": "data:," + "A" * 10_000_000, "mask_url": ["x" * 1_000_000] * 1000}
    assert len(json.dumps(items(body))) < 20_000


def test_the_message_says_every_mistake() -> None:
    with pytest.raises(RequestInvalid, match=r"^mask_url: Field required; prompt: Field required$"):
        validated({"image_url": "https://a.test/"})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(schema.LightfillInput.model_fields)), anything))
def test_whatever_is_sent_is_accepted_or_a_422_in_json(arguments: dict[str, Any]) -> None:
    try:
        validated(arguments)
    except RequestInvalid as error:
        status, body = error_body(error)
        assert status == 422
        json.dumps(body, allow_nan=False).encode()
        assert body["detail"]
        assert all(item["loc"][0] == "body" for item in body["detail"])
