"""The page at / and its files: read once, checked by ETag, and allowed to load nothing else."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # kept, and asked about: a new version shows at once
}


@dataclass(frozen=True)
class _File:
    content: bytes
    headers: dict[str, str]


def page_router() -> APIRouter:
    """The page and what it is made of; nobody needs a key to see it."""
    files = {
        path.relative_to(_FOLDER).as_posix(): _read(path)
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _TYPES
    }
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        """The page."""
        return _answer(request, files["index.html"])

    @router.api_route("/page/{path:path}", methods=["GET", "HEAD"])
    async def part(request: Request, path: str) -> Response:
        """One of its files."""
        if path not in files:
            raise HTTPException(404)
        return _answer(request, files[path])

    return router


def _read(path: Path) -> _File:
    content = path.read_bytes()
    tag = hashlib.blake2b(content, digest_size=16).hexdigest()
    return _File(content, {**_HEADERS, "content-type": _TYPES[path.suffix], "etag": f'"{tag}"'})


def _answer(request: Request, file: _File) -> Response:
    known = {tag.strip().removeprefix("W/") for tag in _if_none_match(request).split(",")}
    if known & {file.headers["etag"], "*"}:
        return Response(status_code=304, headers=file.headers)
    return Response(file.content, headers=file.headers)


def _if_none_match(request: Request) -> str:
    return request.headers.get("if-none-match", "")
