"""Stored files on the wire: whoever has a file's URL reads it, until it expires."""

import os
import re
import time
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.responses import FileResponse

from ..errors import FileDownloadError
from ..fal.storage import StoredFile
from . import openapi_uploads as openapi
from .byte_ranges import NotSatisfiable, satisfiable
from .callers import Caller, Reader
from .replies import json_response
from .site import Site

_SHOWN = re.compile(
    r"image/(jpeg|png|webp|gif|avif|bmp|tiff)|text/plain|application/json|(audio|video)/[\w.+-]+"
)
"""Shown in the browser; all else, SVG and HTML with it, is downloaded: it might be a program."""
_LONGEST_AGE_S = 86_400


def file_router(site: Site) -> APIRouter:
    """GET and HEAD of /files."""
    router = APIRouter(tags=["files"])

    async def read(request: Request, name: str, reader: Reader) -> Response:
        """The file or a part of it. No key is needed; another owner's key gets 404."""
        stored, stat = await site.in_thread(_found, site, name, reader)
        return _reply(request, stored, stat)

    path = "/files/{name}"
    router.add_api_route(path, read, methods=["GET"], **openapi.READ_FILE)
    router.add_api_route(path, read, methods=["HEAD"], include_in_schema=False)
    return router


def _found(site: Site, name: str, reader: Caller) -> tuple[StoredFile, os.stat_result]:
    try:
        stored = site.files.open(name, owner=reader.owner)
        return stored, stored.path.stat()
    except (FileDownloadError, FileNotFoundError):
        detail = "There is no such file, or it has expired."
        raise HTTPException(404, detail, {"cache-control": "no-store"}) from None


def _reply(request: Request, stored: StoredFile, stat: os.stat_result) -> Response:
    # A name is written once, so it stands for the content: the strongest validator there is.
    etag = f'"{stored.name.partition(".")[0]}"'
    headers = _headers(stored, etag)
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    response = FileResponse(
        stored.path, headers=headers, media_type=stored.content_type, stat_result=stat
    )
    try:
        _keep_range(request, response, stat.st_size)
    except NotSatisfiable:
        there = {"content-range": f"bytes */{stat.st_size}"}
        return json_response({"detail": "The file has no such bytes."}, 416, there)
    return response


def _headers(stored: StoredFile, etag: str) -> dict[str, str]:
    age_s = _LONGEST_AGE_S
    if stored.expires is not None:
        age_s = max(0, min(age_s, int(stored.expires - time.time())))
    kind = "inline" if _SHOWN.fullmatch(stored.content_type) else "attachment"
    named = f"; filename*=utf-8''{quote(stored.file_name, safe='')}" if stored.file_name else ""
    return {
        "etag": etag,
        "cache-control": f"private, max-age={age_s}",
        "vary": "authorization",  # another owner's key gets 404
        "content-disposition": kind + named,
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        "cross-origin-resource-policy": "cross-origin",
    }


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Whether the reader has the file already (weak comparison, RFC 9110, section 13.1.2)."""
    given = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return etag in given or given == ["*"]


def _keep_range(request: Request, response: Response, size: int) -> None:
    """Leave of the Range header what this file has; nothing if it is not to be heeded."""
    wanted = request.headers.get("range")
    current = {response.headers["etag"], response.headers["last-modified"]}
    outdated = request.headers.get("if-range", response.headers["etag"]) not in current
    if wanted is None or request.method != "GET" or outdated:
        kept = None
    else:
        kept = satisfiable(wanted, size)
    headers = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    request.scope["headers"] = headers + ([(b"range", kept.encode())] if kept else [])
