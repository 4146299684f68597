"""The queue on the wire: submit, status, status stream, result, cancel (section 5)."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from ..fal.reply import Reply
from ..fal.service import APPLICATION
from ..fal.transport import Order
from . import openapi
from .bodies import arguments_of, fal_headers
from .callers import CountedWho, Who
from .event_stream import event_stream, new_logs
from .following import follow
from .replies import as_response
from .site import Site

_BASE = APPLICATION.rpartition("/")[0]
_REQUEST = f"/{_BASE}/requests/{{request_id}}"
_ANY_PATH = f"/{_BASE}/{{sub_path:path}}/requests/{{request_id}}"
"""As older clients and fal's OpenAPI spell it: the endpoint's whole id (section 4)."""
Logs = Annotated[bool, Query(description="Whether the logs are wanted.")]


def queue_router(site: Site) -> APIRouter:
    """Routes below /queue."""
    router = APIRouter(prefix="/queue", tags=["queue"])

    @router.post(f"/{APPLICATION}", **openapi.SUBMIT)
    async def submit(
        request: Request,
        who: CountedWho,
        fal_webhook: Annotated[str | None, Query(description="Told when it ends.")] = None,
        fal_max_queue_length: Annotated[
            int | None, Query(ge=0, le=2**31, description="429 if more requests than this wait.")
        ] = None,
    ) -> Response:
        """Queue a request."""
        order = Order(
            application=APPLICATION,
            arguments=await arguments_of(request),
            headers=fal_headers(request),
            webhook_url=fal_webhook,
        )
        return as_response(
            await site.in_thread(
                site.service.submit, order, owner=who.owner, max_length=fal_max_queue_length
            )
        )

    async def status(request_id: str, who: Who, logs: Logs = False) -> Response:
        """The request's state: 202 until it is completed, then 200."""
        return as_response(await site.status(request_id, logs=logs, owner=who.owner))

    async def stream(request_id: str, who: Who, logs: Logs = False) -> Response:
        """The state after every change, as server-sent events, until it is completed."""
        replies = follow(site, request_id, logs=logs, owner=who.owner)
        first = await anext(replies, None)
        if first is not None and not first.is_success:
            return as_response(first)
        return event_stream(new_logs(_again(first, replies)), request_id)

    async def result(request_id: str, who: Who) -> Response:
        """The output, the request's own error, or 400 while it is not there."""
        return as_response(await site.in_thread(site.service.result, request_id, owner=who.owner))

    async def cancel(request_id: str, who: Who) -> Response:
        """Cancel: a waiting request is never run, a running one stops between two steps."""
        return as_response(await site.in_thread(site.service.cancel, request_id, owner=who.owner))

    routes: list[tuple[str, str, Any, dict[str, Any]]] = [
        ("GET", "/status", status, openapi.STATUS),
        ("GET", "/status/stream", stream, openapi.STREAM),
        ("PUT", "/cancel", cancel, openapi.CANCEL),
        ("GET", "", result, openapi.RESULT),
    ]
    for method, ending, call, documented in routes:
        router.add_api_route(f"{_REQUEST}{ending}", call, methods=[method], **documented)
        router.add_api_route(
            f"{_ANY_PATH}{ending}", call, methods=[method], include_in_schema=False
        )
    for path in (_REQUEST, _ANY_PATH):
        router.add_api_route(f"{path}/response", result, methods=["GET"], include_in_schema=False)
    return router


async def _again(
    first: Reply | None, others: AsyncIterator[Reply | None]
) -> AsyncGenerator[Reply | None, None]:
    """All replies, the one included that had to be seen before a response began."""
    yield first
    async for reply in others:
        yield reply
