"""Uploads to a server: in one piece, or in parts of ten megabytes (section 7).

The file is read once and never held whole; each part is sent again where that may help.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Any, Protocol

from .reply import Reply
from .retries import repeated

PART_BYTES = 10 << 20
"""fal's own clients' part size. What is no longer is sent whole."""
_INITIATE = "rest/storage/upload/initiate"
_QUERY = {"storage_type": "fal-cdn-v3"}
_FILES = "/files/"


class Ask(Protocol):
    """One HTTP call to the server."""

    def __call__(
        self,
        method: str,
        url: str,
        *,
        within: float = inf,
        headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> Reply: ...


class Uploads:
    """Files into the storage of the server at `base_url`."""

    def __init__(self, base_url: str, ask: Ask) -> None:
        self._base = base_url
        self._ask = ask

    def store(
        self,
        data: Iterable[bytes],
        content_type: str,
        file_name: str | None,
        expires_s: float | None,
    ) -> Reply:
        """Store the pieces as one file; the body is {"access_url": url}, or the server's error."""
        parts = _parts(data)
        first, second = next(parts, b""), next(parts, None)
        headers = {} if expires_s is None else _lifecycle(expires_s)
        named = {"file_name": file_name or "upload.bin", "content_type": content_type}
        initiate = _INITIATE if second is None else f"{_INITIATE}-multipart"
        begun = repeated(
            lambda: self._ask(
                "POST", f"{self._base}/{initiate}", params=_QUERY, json=named, headers=headers
            )
        )
        if not begun.is_success:
            return begun
        url = self._here(begun.body["upload_url"])
        if second is None:
            sent = self._put(url, first, {"content-type": content_type})
        else:
            sent = self._send_parts(url, [first, second], parts)
        return Reply(200, {"access_url": begun.body["file_url"]}) if sent.is_success else sent

    def _send_parts(self, url: str, first: list[bytes], others: Iterator[bytes]) -> Reply:
        path, question, query = url.partition("?")
        stored = []
        for number, part in enumerate(_chained(first, others), 1):
            sent = self._put(f"{path}/{number}{question}{query}", part, {})
            if not sent.is_success:
                return sent
            stored.append({"partNumber": number, "etag": sent.body["etag"]})
        return repeated(
            lambda: self._ask("POST", f"{path}/complete{question}{query}", json={"parts": stored})
        )

    def _put(self, url: str, part: bytes, headers: Mapping[str, str]) -> Reply:
        return repeated(lambda: self._ask("PUT", url, content=part, headers=headers))

    def _here(self, url: str) -> str:
        """The server's URL by the name this caller knows the server by."""
        _, found, path = url.rpartition(_FILES)
        return f"{self._base}{_FILES}{path}" if found else url


def _lifecycle(expires_s: float) -> dict[str, str]:
    preference = json.dumps({"expiration_duration_seconds": expires_s})
    return {
        "x-fal-object-lifecycle": preference,
        "x-fal-object-lifecycle-preference": preference,
    }


def _chained(first: list[bytes], others: Iterator[bytes]) -> Iterator[bytes]:
    """All parts, each let go of before the next is read."""
    while first:
        yield first.pop(0)
    yield from others


def _parts(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces joined and cut to `PART_BYTES`; the last may be shorter."""
    held = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), PART_BYTES):
            held += view[start : start + PART_BYTES]
            while len(held) >= PART_BYTES:
                yield bytes(held[:PART_BYTES])
                del held[:PART_BYTES]
    if held:
        yield bytes(held)
