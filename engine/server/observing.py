"""The outermost layer: every request is counted, timed and logged in one line."""

import logging
import re
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .replies import REQUEST_ID

_LEFT = 499
"""As fal says that a caller has left before there was a reply."""
_PLAIN = re.compile(r"[\w.-]{1,100}", re.ASCII)

logger = logging.getLogger(__name__)


class Observed:
    """Tells `metrics` of every request, and the log, at INFO.

    Both know a request by the template of its path: no id, key, query or prompt is in either.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status, request_id = _LEFT, ""

        async def sent(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = Headers(raw=message["headers"]).get(REQUEST_ID, "")
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            status = 500  # the server's own handler, further out, answers
            raise
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", None)
            self._metrics.answered(scope["method"], route, status, seconds)
            if logger.isEnabledFor(logging.INFO):
                _log(scope, request_id, route, status, seconds)


def _log(scope: Scope, request_id: str, route: str | None, status: int, seconds: float) -> None:
    """One line; the same values as the record's attributes, for formatters that write JSON."""
    values = {
        "request_id": request_id or scope.get("lightfill.request_id", ""),
        "owner": scope.get("lightfill.owner") or "-",
        "method": scope["method"],
        "route": route or "-",
        "status": status,
        "ms": round(seconds * 1000, 1),
    }
    values = {name: _on_one_line(value) for name, value in values.items()}
    logger.info(" ".join(f"{name}={value}" for name, value in values.items()), extra=values)


def _on_one_line(value: object) -> object:
    """What came from a caller may hold anything."""
    if not isinstance(value, str) or value.startswith("/") or _PLAIN.fullmatch(value):
        return value
    return repr(value[:100])
