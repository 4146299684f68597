"""Every error of the tree has fal's status and body (fal protocol, section 8)."""

import io
import json
from typing import Any

import pytest
from PIL import Image

from lightfill.engine import errors
from lightfill.engine.errors import (
    Cancelled,
    DeviceOutOfMemory,
    DeviceUnavailable,
    FileTooLarge,
    ImageTooLarge,
    InvalidInput,
    LightfillError,
    RateLimited,
    RequestInvalid,
)
from lightfill.engine.fal.validation import error_body
from lightfill.engine.images import decode_photo

TREE = [kind for kind in vars(errors).values() if isinstance(kind, type)]
TREE = [kind for kind in TREE if issubclass(kind, LightfillError)]


def made(kind: type[LightfillError]) -> LightfillError:
    if kind is RequestInvalid:
        return RequestInvalid([{"type": "missing", "loc": ["body", "x"], "msg": "m", "input": 1}])
    if kind is DeviceOutOfMemory:
        return DeviceOutOfMemory("is wrong", wanted=1)
    if kind is RateLimited:
        return RateLimited("is wrong", retry_after_s=3)
    return kind("image", "is wrong") if issubclass(kind, InvalidInput) else kind("is wrong")


@pytest.mark.parametrize("kind", TREE)
def test_every_error_has_its_status_and_a_detail(kind: type[LightfillError]) -> None:
    status, body = error_body(made(kind))
    assert status == kind.http_status
    json.dumps(body)
    if issubclass(kind, InvalidInput):
        assert isinstance(body["detail"], list)
        assert set(body) == {"detail"}
    else:
        assert body == {"detail": "is wrong", "error_type": kind.error_type}


def test_infrastructure_errors_are_flat() -> None:
    assert error_body(Cancelled("stopped")) == (
        499,
        {"detail": "stopped", "error_type": "client_cancelled"},
    )
    assert error_body(DeviceUnavailable("no"))[1]["error_type"] == "runner_scheduling_failure"


def test_a_model_error_links_to_the_documentation_and_gives_the_limit() -> None:
    buffer = io.BytesIO()
    Image.new("L", (100, 100)).save(buffer, "PNG")
    with pytest.raises(ImageTooLarge) as caught:
        decode_photo(buffer.getvalue(), "mask", max_pixels=9000)
    (item,) = error_body(caught.value)[1]["detail"]
    assert item["loc"] == ["body", "mask_url"]
    assert item["ctx"] == {"max_resolution": 9000}
    assert item["url"] == "https://docs.fal.ai/errors#image_too_large"
    assert not item["msg"].startswith("mask")


@pytest.mark.parametrize(
    ("field", "where"),
    [
        ("image", ["image_url"]),
        ("steps", ["num_inference_steps"]),
        ("crop_to_mask", ["mask_crop_padding"]),
        ("seed", ["seed"]),
        ("embeddings.1.path", ["embeddings", 1, "path"]),
    ],
)
def test_fields_have_fals_names(field: str, where: list[Any]) -> None:
    (item,) = error_body(InvalidInput(field, "is wrong"))[1]["detail"]
    assert item == {"type": "value_error", "loc": ["body", *where], "msg": "is wrong"}


def test_nothing_of_a_foreign_error_is_told() -> None:
    body = error_body(RuntimeError("/home/me/secret"))
    assert body == (500, {"detail": "Internal Server Error"})


@pytest.mark.parametrize("kind", [InvalidInput, LightfillError])
def test_a_message_is_cut_short_and_is_utf_8(kind: type[LightfillError]) -> None:
    """It may quote what a caller chose: megabytes of token names, or half a surrogate pair."""
    text = "\ud800" + "<token> " * 1_000_000
    error = InvalidInput("embeddings", text) if kind is InvalidInput else kind(text)
    _, body = error_body(error)
    assert len(json.dumps(body, ensure_ascii=False).encode()) < 1500


def test_a_limit_is_in_ctx() -> None:
    error = FileTooLarge("mask_url", "is too large", context={"max_size": 5})
    assert error_body(error)[1]["detail"][0]["ctx"] == {"max_size": 5}
