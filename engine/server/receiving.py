"""The body of a request into a file: streamed, counted, whole or nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from anyio import CancelScope
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from ..errors import FileTooLarge, RequestInvalid
from ..fal.incoming import Incoming
from ..fal.validation import json_safe
from .site import Site

_PIECE = 1 << 20
"""How much is written at a time."""
_SILENCE_S = 60.0
"""How long a sender may send nothing."""
_LIFECYCLE = ("x-fal-object-lifecycle", "x-fal-object-lifecycle-preference")
LONGEST_S = 366 * 86_400.0
"""fal's longest is "1y"."""


@asynccontextmanager
async def received(site: Site, request: Request, incoming: Incoming) -> AsyncIterator[None]:
    """Writes the body into `incoming`; what the block does not move away is deleted.

    No thread waits for a slow sender. HTTPException 413 for more than may be, 408 for a sender who
    falls silent, 499 for one who leaves.
    """
    announced = request.headers.get("content-length", "")
    try:
        if announced.isdecimal() and int(announced) > site.settings.max_upload_bytes:
            limit = site.settings.max_upload_bytes
            raise HTTPException(413, f"The file has more than {limit} bytes; make it smaller.")
        async for piece in _pieces(request):
            await site.on_disk(incoming.write, piece)
        await _check_there(request)
        yield
    except FileTooLarge as error:
        raise HTTPException(413, error.reason) from error
    except ClientDisconnect as error:
        raise HTTPException(499, "Client disconnected.") from error
    except TimeoutError as error:
        raise HTTPException(408, f"Nothing was sent for {_SILENCE_S:.0f} s.") from error
    finally:
        with CancelScope(shield=True):
            await site.on_disk(incoming.discard)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces of a megabyte; raises TimeoutError and ClientDisconnect."""
    chunks = aiter(request.stream())
    gathered = bytearray()
    with suppress(StopAsyncIteration):
        while True:
            async with asyncio.timeout(_SILENCE_S):
                gathered += await anext(chunks)
            if len(gathered) >= _PIECE:
                yield bytes(gathered)
                gathered.clear()
    yield bytes(gathered)


async def _check_there(request: Request) -> None:
    """Raise ClientDisconnect if nobody is there to be told of the file."""
    if await request.is_disconnected():
        raise ClientDisconnect


def kept_s(request: Request) -> float | None:
    """How long the caller wants the file kept (its lifecycle headers); None: as the server does.

    Raises RequestInvalid. fal takes null and 0 as no wish; who may read it (`initial_acl`) is not
    the caller's to say.
    """
    for name in _LIFECYCLE:
        if not request.headers.get(name):
            continue
        try:
            asked = json.loads(request.headers[name])["expiration_duration_seconds"]
        except KeyError:
            continue
        except (ValueError, TypeError, RecursionError):
            raise _wrong(name, request.headers[name], "Input should be a JSON object") from None
        if asked in (None, 0):
            return None
        numeric = isinstance(asked, int | float) and not isinstance(asked, bool)
        if not numeric or not 0 < asked <= LONGEST_S:
            limits = f"more than 0 and at most {LONGEST_S:.0f}"
            raise _wrong(name, asked, f"expiration_duration_seconds should be {limits}")
        return float(asked)
    return None


def file_name_of(request: Request) -> str | None:
    """The name a file is uploaded under; fal's client writes it in UTF-8."""
    given = request.headers.get("x-fal-file-name")
    try:
        return None if given is None else given.encode("latin-1").decode()
    except UnicodeDecodeError:
        return given


def _wrong(name: str, given: Any, message: str) -> RequestInvalid:
    item = {"type": "value_error", "loc": ["header", name], "msg": message}
    return RequestInvalid([{**item, "input": json_safe(given)}])
