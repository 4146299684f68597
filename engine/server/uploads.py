"""Uploads that have begun: what their URLs and tokens hold, and where their content goes.

An upload URL is a permission by itself: it names one file, its owner and a deadline under a seal,
and works without a key. Nothing is stored before the content comes.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import HTTPException, Request, Response
from pydantic import BaseModel, Field, ValidationError

from ..errors import RequestInvalid
from ..fal.parts import MAX_PARTS, PartedUpload
from ..fal.storage import Reservation
from ..fal.validation import fal_items
from .bodies import arguments_of
from .callers import TOKEN, Caller, is_active
from .receiving import file_name_of, kept_s, received
from .replies import json_response
from .site import Site

ONE_FILE, IN_PARTS = "one file", "file in parts"
"""What upload URLs are sealed for."""
_TOKEN_S, _FILE_S, _PARTS_S = 3600, 3600, 86_400
"""How long they work: upload tokens, the URL of one upload, one in parts."""
_MAX_LIST_BYTES = 4 << 20
Model = TypeVar("Model", bound=BaseModel)


class UploadIntent(BaseModel):
    """What is about to be uploaded."""

    content_type: str = "application/octet-stream"
    file_name: str | None = None


class UploadedPart(BaseModel):
    """One part as its upload was answered."""

    part_number: int = Field(alias="partNumber", ge=1, le=MAX_PARTS)
    etag: str = Field(max_length=100)


class UploadedParts(BaseModel):
    """Every part of a file, in any order."""

    parts: list[UploadedPart] = Field(min_length=1, max_length=MAX_PARTS)


class Uploads:
    """What the routes have in common."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def token(self, who: Caller) -> dict[str, Any]:
        deadline = int(time.time()) + _TOKEN_S
        return {
            "token": self._site.seal.seal(TOKEN, {"owner": who.owner}, deadline),
            "token_type": "Bearer",
            "base_url": f"{self._site.settings.public_url}/cdn",
            # +00:00 and not Z, which Python's fromisoformat refused before 3.11
            "expires_at": datetime.fromtimestamp(deadline, UTC).isoformat(),
        }

    async def intended(self, request: Request, who: Caller) -> Reservation:
        """A name for what the JSON announces."""
        intent = _read(UploadIntent, await arguments_of(request))
        return self._site.files.reserve(
            intent.content_type, intent.file_name, owner=who.owner, expires_s=kept_s(request)
        )

    def announced(self, request: Request, who: Caller) -> Reservation:
        """A name for what the headers announce."""
        content_type = request.headers.get("content-type", "application/octet-stream")
        return self._site.files.reserve(
            content_type, file_name_of(request), owner=who.owner, expires_s=kept_s(request)
        )

    def one_file(self, reservation: Reservation) -> dict[str, str]:
        facts = asdict(reservation)
        sealed = self._site.seal.seal(ONE_FILE, facts, time.time() + _FILE_S)
        url = self._site.files.url_of(reservation.name)
        return {"upload_url": f"{url}?upload={sealed}", "file_url": url}

    def in_parts(self, reservation: Reservation) -> tuple[str, str]:
        """The file's URL, and what its upload is called."""
        deadline = int(time.time()) + _PARTS_S
        facts = {**asdict(reservation), "deadline": deadline}
        url = self._site.files.url_of(reservation.name)
        return url, self._site.seal.seal(IN_PARTS, facts, deadline)

    async def permitted(
        self, purpose: str, name: str, sealed: str, holder: Caller
    ) -> dict[str, Any]:
        """What an upload URL says, if it is for this and for this caller; else 404."""
        facts = self._site.seal.open(purpose, sealed)
        if facts is None or facts["name"] != name:
            raise _gone()
        if self._site.asks_for_keys:
            owner = facts["owner"]
            if owner is None or not await is_active(self._site, owner):
                raise _gone()
            if holder.owner not in (None, owner):
                raise _gone()
        return facts

    async def store(self, request: Request, reservation: Reservation) -> Response:
        """The body as the file of that name."""
        storage = self._site.files.storage
        incoming = storage.incoming(reservation)
        async with received(self._site, request, incoming):
            await self._site.on_disk(storage.keep, reservation, incoming)
        return json_response(self.stored(reservation.name))

    def stored(self, name: str) -> dict[str, str]:
        """Where it is; clients differ in how they call that."""
        url = self._site.files.url_of(name)
        return {"access_url": url, "file_url": url}

    async def store_part(self, request: Request, upload: PartedUpload, number: int) -> str:
        parts = self._site.files.parts
        incoming = await self._site.on_disk(parts.incoming, upload)
        async with received(self._site, request, incoming):
            return await self._site.on_disk(parts.keep, upload, number, incoming)


def _gone() -> HTTPException:
    return HTTPException(404, "There is no such upload, or its time is over; start another one.")


def parted(facts: Mapping[str, Any]) -> PartedUpload:
    """The upload that an upload URL names."""
    known = dict(facts)
    deadline = known.pop("deadline")
    return PartedUpload(Reservation(**known), deadline)


async def listed(request: Request) -> dict[int, str]:
    """The etags by number that complete an upload; each number once."""
    given = _read(UploadedParts, await arguments_of(request, at_most=_MAX_LIST_BYTES))
    etags = {part.part_number: part.etag.strip('"') for part in given.parts}
    if len(etags) < len(given.parts):
        item = {"type": "value_error", "loc": ["body", "parts"], "input": None}
        raise RequestInvalid([{**item, "msg": "Each partNumber may be listed once"}])
    return etags


def _read(model: type[Model], arguments: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(arguments)
    except ValidationError as error:
        raise RequestInvalid(fal_items(error.errors())) from error
