"""Requests whose caller waits on the line: run and stream (section 6)."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import CancelScope
from fastapi import APIRouter, Request, Response

from ..errors import WorkerLost
from ..fal.reply import Reply
from ..fal.schema import validated
from ..fal.service import APPLICATION, reply
from ..fal.transport import Order
from ..fal.validation import error_body
from . import openapi
from .bodies import arguments_of, fal_headers
from .callers import Caller, CountedWho
from .event_stream import Event, event_stream, new_logs
from .following import follow
from .replies import as_response
from .site import Site

_GONE = {"detail": "Client disconnected.", "error_type": "client_disconnected"}
_STOPPED = WorkerLost("The server is stopping; send the request again.")


def run_router(site: Site) -> APIRouter:
    """Routes below /run. Each request goes through the queue; a caller who leaves cancels it."""
    router = APIRouter(prefix="/run", tags=["run"])

    async def submitted(request: Request, arguments: dict[str, Any], who: Caller) -> Reply:
        order = Order(application=APPLICATION, arguments=arguments, headers=fal_headers(request))
        return await site.in_thread(site.service.submit, order, owner=who.owner)

    async def answered(request: Request, arguments: dict[str, Any], who: Caller) -> Response:
        accepted = await submitted(request, arguments, who)
        if not accepted.is_success:
            return as_response(accepted)
        request_id = accepted.body["request_id"]
        async with _cancelled_when_left(site, request_id, who):
            async for seen in follow(site, request_id, logs=False, owner=who.owner):
                if seen is None and await request.is_disconnected():
                    return as_response(reply(499, _GONE, request_id))
            result = await site.in_thread(site.service.result, request_id, owner=who.owner)
        if result.status_code == 400 and "status" in result.body:  # still in progress
            return as_response(reply(*error_body(_STOPPED), request_id))
        return as_response(result)

    @router.post(f"/{APPLICATION}", **openapi.RUN)
    async def run(request: Request, who: CountedWho) -> Response:
        """Run a request and wait for its output."""
        return await answered(request, await arguments_of(request), who)

    @router.get(f"/{APPLICATION}", include_in_schema=False)
    async def run_with_query(request: Request, who: CountedWho) -> Response:
        """The same with the arguments in the query, as fal's JavaScript clients send a GET."""
        return await answered(request, dict(request.query_params), who)

    @router.post(f"/{APPLICATION}/stream", **openapi.RUN_STREAM)
    async def stream(request: Request, who: CountedWho) -> Response:
        """Run a request: its states with their new logs as events, and its output as the last.

        Arguments that are wrong are a 422 here and now: an event would look like an output.
        """
        arguments = await arguments_of(request)
        await site.in_thread(validated, arguments)
        accepted = await submitted(request, arguments, who)
        if not accepted.is_success:
            return as_response(accepted)
        request_id = accepted.body["request_id"]

        async def events() -> AsyncGenerator[Event, None]:
            async with _cancelled_when_left(site, request_id, who):
                followed = follow(site, request_id, logs=True, owner=who.owner)
                async for event in new_logs(followed):
                    yield event
                result = await site.in_thread(site.service.result, request_id, owner=who.owner)
                yield result.body

        return event_stream(events(), request_id)

    return router


@asynccontextmanager
async def _cancelled_when_left(site: Site, request_id: str, who: Caller) -> AsyncIterator[None]:
    """Cancels the request at the end of the block; of no effect on one that is completed."""
    try:
        yield
    finally:
        with CancelScope(shield=True):  # the caller's leaving cancels this task, too
            await site.in_thread(site.service.cancel, request_id, owner=who.owner)
