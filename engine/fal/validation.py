"""Errors as fal writes them (fal protocol, section 8).

Validation and model errors are a list, {"detail": [{"type", "loc", "msg", "input"[, "ctx"]}]};
infrastructure errors are flat, {"detail": text, "error_type": name}.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

from ..errors import InvalidInput, LightfillError, RequestInvalid

_FAL_NAMES = {
    "image": "image_url",
    "mask": "mask_url",
    "steps": "num_inference_steps",
    "crop_to_mask": "mask_crop_padding",
}
"""The pipeline's arguments that fal calls otherwise."""
_DOCUMENTATION = "https://docs.fal.ai/errors#"
_MAX_ECHO, _MAX_ITEMS, _MAX_DEPTH, _MAX_MISTAKES = 200, 20, 4, 50
"""How much of a caller's input an error repeats: a body may hold 50 MB of base64."""
_MAX_MESSAGE = 1000
"""Messages quote names that callers chose: of tokens, of a file's tensors."""


def error_body(error: Exception) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the JSON body fal would send for `error`.

    Anything but a LightfillError is a fault of ours: status 500, and nothing of it is told.
    """
    if isinstance(error, RequestInvalid):
        return error.http_status, {"detail": error.detail}
    if isinstance(error, InvalidInput):
        return error.http_status, {"detail": [_item(error)]}
    if isinstance(error, LightfillError):
        detail = _printable(str(error), _MAX_MESSAGE)
        return error.http_status, {"detail": detail, "error_type": error.error_type}
    return 500, {"detail": "Internal Server Error"}


def fal_items(errors: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """pydantic's errors as fal's items: JSON values only, `loc` from "body" to a field's name.

    A union's branches are told apart by the input's own kind, so that the last element of `loc`
    is a field (fal's JavaScript clients look errors up by it).
    """
    items = []
    for error in errors:
        where = _location(error["loc"], error["input"])
        if where is None:
            continue
        item = {
            "type": error["type"],
            "loc": ["body", *where],
            "msg": error["msg"],
            "input": json_safe(error["input"]),
        }
        if error.get("ctx"):
            item["ctx"] = json_safe(error["ctx"])
        items.append(item)
    return items[:_MAX_MISTAKES]


def json_safe(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """`value` in JSON's types, long texts and lists cut short; an object by its type's name."""
    if isinstance(value, Mapping) and depth:
        first = list(value.items())[:_MAX_ITEMS]
        return {str(key)[:_MAX_ECHO]: json_safe(entry, depth - 1) for key, entry in first}
    if isinstance(value, list | tuple) and depth:
        return [json_safe(entry, depth - 1) for entry in value[:_MAX_ITEMS]]
    return _json_safe_scalar(value)


def _json_safe_scalar(value: Any) -> Any:
    if isinstance(value, str | Exception):
        return _printable(str(value), _MAX_ECHO)
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) >= 2**64:
        return "an integer of more than 64 bits"
    if value is None or isinstance(value, bool | int | float):
        return value
    return f"<{type(value).__name__}>"


def _printable(text: str, limit: int) -> str:
    """The beginning of `text`, half surrogate pairs as question marks: UTF-8 has none."""
    beginning = text[:limit].encode("utf-8", "replace").decode()
    return beginning if len(text) <= limit else f"{beginning}..."


def _location(where: Sequence[str | int], value: Any) -> list[str | int] | None:
    """`where` without the names of union branches; None for the branch that was not meant."""
    if len(where) < 2 or where[0] != "image_size":
        return list(where)
    branch, *rest = where[1:]
    if branch == "ImageSize":
        # a mapping that is wrong inside, or neither a mapping nor text
        return None if isinstance(value, str) and not rest else ["image_size", *rest]
    return ["image_size"] if isinstance(value, str) else None


def _item(error: InvalidInput) -> dict[str, Any]:
    name, *inside = error.field.split(".")
    path = [int(part) if part.isdecimal() else part for part in inside]
    item: dict[str, Any] = {
        "type": error.error_type,
        "loc": ["body", _FAL_NAMES.get(name, name), *path],
        "msg": _printable(error.reason, _MAX_MESSAGE),
    }
    if error.context:
        item["ctx"] = error.context
    if error.error_type != InvalidInput.error_type:
        item["url"] = f"{_DOCUMENTATION}{error.error_type}"
    return item
