"""fal's proxy protocol (section 12): requests to one URL that name the one they are meant for.

Nothing is fetched: a request for a host of fal's goes on inside this server, to where it has that
host's routes; any other is refused.
"""

from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..fal.reply import Reply
from .replies import as_response

PATH = "/api/fal/proxy"
_HEADER = "x-fal-target-url"
_PREFIXES = {
    "fal.run": "/run",
    "queue.fal.run": "/queue",
    "rest.fal.ai": "/rest",
    "rest.alpha.fal.ai": "/rest",
    "v3.fal.media": "/cdn",
    "fal.media": "/cdn",
}
_INVALID = Reply(400, {"detail": "Invalid request"}, {"content-type": "application/json"})


class Proxy:
    """Sends what comes to /api/fal/proxy to the route that its x-fal-target-url stands for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].rstrip("/") != PATH:
            await self._app(scope, receive, send)
            return
        target = _target(Headers(scope=scope).getlist(_HEADER))
        if target is None:
            await as_response(_INVALID)(scope, receive, send)
            return
        path, query = target
        scope["path"], scope["raw_path"] = unquote(path), path.encode()
        scope["query_string"] = query.encode()
        await self._app(scope, receive, send)


def _target(given: list[str]) -> tuple[str, str] | None:
    """Path and query in this server, still quoted; None for anything that is not fal's."""
    if len(given) != 1 or not given[0].isascii() or not given[0].isprintable():
        return None
    try:
        url = urlsplit(given[0])
        port = url.port
    except ValueError:
        return None
    prefix = _PREFIXES.get(url.hostname or "")
    if prefix is None or url.scheme != "https" or port not in {None, 443} or "@" in url.netloc:
        return None
    if {".", ".."} & set(unquote(url.path).split("/")):
        return None
    return f"{prefix}{url.path}".rstrip("/"), url.query
