"""A request's arguments out of its body, or its query for GET (section 4)."""

import json
from typing import Any

from anyio import to_thread
from fastapi import HTTPException, Request

from ..errors import RequestInvalid
from ..fal.validation import json_safe

_SLOW_BYTES = 1 << 20
"""Larger bodies, which hold data URIs, are parsed in a thread: others do not wait for them."""


async def arguments_of(request: Request, *, at_most: int | None = None) -> dict[str, Any]:
    """The JSON object in the body; RequestInvalid for anything else, 413 over `at_most` bytes."""
    body = await request.body()
    if at_most is not None and len(body) > at_most:
        raise HTTPException(413, f"The body is larger than {at_most} bytes; shorten it.")
    try:
        if len(body) > _SLOW_BYTES:
            found = await to_thread.run_sync(json.loads, body)
        else:
            found = json.loads(body)
    except (ValueError, RecursionError) as error:
        where = getattr(error, "pos", 0)
        item = {"type": "json_invalid", "loc": ["body", where], "msg": "JSON decode error",
                "input": {}, "ctx": {"error": getattr(error, "msg", str(error))}}  # fmt: skip
        raise RequestInvalid([item]) from error
    if not isinstance(found, dict):
        item = {"type": "dict_type", "loc": ["body"], "input": json_safe(found),
                "msg": "Input should be a valid dictionary"}  # fmt: skip
        raise RequestInvalid([item])
    return found


def fal_headers(request: Request) -> dict[str, str]:
    """fal's own request headers (section 11), names in lower case."""
    return {name: value for name, value in request.headers.items() if name.startswith("x-fal-")}
