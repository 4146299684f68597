"""Reply and errors as HTTP, in fal's shapes (section 8)."""

import logging
from collections.abc import Sequence
from math import ceil
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from ..errors import LightfillError, RateLimited
from ..fal.reply import Reply
from ..fal.service import APPLICATION, reply
from ..fal.validation import error_body, json_safe

REQUEST_ID = "x-fal-request-id"

logger = logging.getLogger(__name__)


def as_response(answer: Reply) -> Response:
    """The reply's status, headers and JSON on the wire."""
    return Response(answer.content, answer.status_code, answer.headers)


def json_response(
    body: Any, status_code: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """`body` as compact JSON."""
    return as_response(
        Reply(status_code, body, {"content-type": "application/json"} | (headers or {}))
    )


def shown_route(scope: Scope) -> str:
    """Method and route for logs: never the path, in which an upload URL carries its permission."""
    route = getattr(scope.get("route"), "path", "an unknown path")
    return f"{scope.get('method')} {route}"


def answer_errors(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Let every error of `app`'s `routes` be fal's: JSON with `detail`, no redirect, no HTML."""

    @app.exception_handler(LightfillError)
    async def on_ours(request: Request, error: LightfillError) -> Response:
        status_code, body = error_body(error)
        if status_code >= 500:
            logger.error("%s: %s", shown_route(request.scope), error)
        response = _error(request, status_code, body)
        if isinstance(error, RateLimited):
            response.headers["retry-after"] = str(ceil(error.retry_after_s))
        return response

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        items = [
            {"type": each["type"], "loc": each["loc"], "msg": each["msg"],
             "input": json_safe(each["input"])}
            for each in error.errors()
        ]  # fmt: skip
        return _error(request, 422, {"detail": items})

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        detail = error.detail
        if error.status_code == 404 and detail == "Not Found":
            detail = f"Path {request.url.path} not found; lightfill runs {APPLICATION}"
        response = _error(request, error.status_code, {"detail": detail})
        response.headers.update(error.headers or {})
        if error.status_code == 405 and (methods := _methods(routes, request.url.path)):
            response.headers["allow"] = ", ".join(sorted(methods))
        return response


def _methods(routes: Sequence[BaseRoute], path: str) -> set[str]:
    """Of every route with that path; Starlette itself tells those of the first one only."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.path_regex.fullmatch(path):
            found |= route.methods or set()
    return found


def _error(request: Request, status_code: int, body: dict[str, Any]) -> Response:
    return as_response(reply(status_code, body, request.scope["lightfill.request_id"]))
