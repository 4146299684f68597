"""Server-sent events as fal's clients read them (section 5.5)."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

from ..fal.reply import Reply
from .replies import REQUEST_ID

Event = dict[str, Any] | None
"""An event's JSON; None: nothing new, the connection is to be kept alive."""
_PING_S = 15.0
_LINGER_S = 0.1
"""Older JavaScript clients drop what is still buffered when the server closes: 50 ms is enough."""


def event_stream(events: AsyncIterator[Event], request_id: str) -> StreamingResponse:
    """The events as a response that is never cached or buffered by proxies."""
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no", REQUEST_ID: request_id}
    return StreamingResponse(_written(events), media_type="text/event-stream", headers=headers)


async def new_logs(replies: AsyncIterator[Reply | None]) -> AsyncGenerator[Event, None]:
    """Each status body with only those logs that the events before did not have."""
    told = 0
    async for reply in replies:
        if reply is None:
            yield None
            continue
        logs = reply.body.get("logs")
        yield reply.body if logs is None else {**reply.body, "logs": logs[told:]}
        told = told if logs is None else len(logs)


async def _written(events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
    quiet_since = time.monotonic()
    async for event in events:
        if event is not None:
            text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
            yield f"data: {text}\n\n".encode()
        elif time.monotonic() - quiet_since >= _PING_S:
            yield b": ping\n\n"
        else:
            continue
        quiet_since = time.monotonic()
    await asyncio.sleep(_LINGER_S)
