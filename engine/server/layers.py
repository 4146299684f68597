"""ASGI layers around the routes: request ids, faults, sizes, trailing slashes, hosts, origins."""

import logging
import re
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..fal.reply import Reply
from ..fal.validation import error_body
from .replies import REQUEST_ID, as_response, shown_route

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@]+)(?::[0-9]+)?")
CLEANED = ("/queue/", "/run/", "/rest/", "/cdn/")
"""Beginnings of paths that may end in a slash."""

logger = logging.getLogger(__name__)


class RequestIds:
    """Every reply has x-fal-request-id (section 11): the queue's own, or one made here.

    Paths of the queue may end in a slash; clients that do not follow redirects must get no 307.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(uuid.uuid4())
        scope["lightfill.request_id"] = request_id
        if scope["path"].startswith(CLEANED):
            scope["path"] = scope["path"].rstrip("/")

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault(REQUEST_ID, request_id)
            await send(message)

        await self._app(scope, receive, sent)


class Faults:
    """Answers for what nobody expected, inside the layer that lets browsers read the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except ClientDisconnect:
            logger.info("%s: the caller left", shown_route(scope))
        except Exception as error:
            if begun:
                raise  # the connection is cut: the caller sees that something is missing
            logger.exception("%s failed", shown_route(scope))
            status_code, body = error_body(error)
            fault = Reply(status_code, body, {"content-type": "application/json"})
            await as_response(fault)(scope, receive, send)


class BodyLimit:
    """Refuses bodies over `max_bytes` with 413, those sent in chunks when they pass it.

    FastAPI's own limit answers in plain text, whose body fal's JavaScript clients lose. unlimited:
    methods and paths of routes that count for themselves (uploads of files).
    """

    def __init__(self, app: ASGIApp, max_bytes: int, unlimited: re.Pattern[str]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._unlimited = unlimited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._unlimited.fullmatch(_line(scope)):
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            await self._refusal()(scope, receive, send)
            return
        taken, begun = 0, False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_bytes:
                raise _TooLarge
            return message

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, sent)
        except _TooLarge:
            if begun:
                raise
            await self._refusal()(scope, receive, send)

    def _refusal(self) -> ASGIApp:
        detail = f"The body is larger than {self._max_bytes} bytes; upload large files instead."
        return as_response(Reply(413, {"detail": detail}, {"content-type": "application/json"}))


class _TooLarge(Exception):
    """The body has passed the limit."""


class OnlyThisMachine:
    """For a server without keys: its own pages and programs may call it, other sites may not.

    A browser would let any page it shows send requests to a loopback address. Host must name this
    machine (else a DNS name that was rebound gets through), and Origin, where there is one, the
    server itself or one of `origins`; "*" allows all.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._app = app
        self._hosts = {"127.0.0.1", "localhost", "::1", *hosts}
        self._origins = set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(scope)) is not None:
            refused = Reply(403, {"detail": problem}, {"content-type": "application/json"})
            await as_response(refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        named = _HOST.fullmatch(host.lower())
        if named is None or named[1].strip("[]") not in self._hosts:
            return f"This server is not {host[:100]}; set --public-url, or ask callers for keys."
        if origin is None or "*" in self._origins or origin in self._origins:
            return None
        if origin in {f"http://{host}", f"https://{host}"}:
            return None
        return f"Pages of {origin[:100]} may not call this server; set --cors-origins."


def _line(scope: Scope) -> str:
    return f"{scope['method']} {scope['path']}"
