"""Who calls: the owner of a key, or anybody where keys are not asked for."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import APIKeyHeader

from ..errors import DatabaseUnavailable
from .keys import KnownKey
from .site import Site

TOKEN = "cdn token"  # noqa: S105, what a seal is for
"""Sealed for uploads by whoever showed a key; its one fact is the owner."""
NOT_AUTHENTICATED = (
    'Cannot access application "fal-ai/fast-lightning-sdxl". Authentication is required to '
    "access this application."
)
MALFORMED = "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."
UNKNOWN = "No user found for Key ID and Secret"
BAD_TOKEN = "The upload token is not known or has expired; fetch another one."  # noqa: S105
"""fal's own words but the last (section 8)."""
_IN_OPENAPI = Security(
    APIKeyHeader(
        name="Authorization",
        scheme_name="apiKeyAuth",
        description="`Key id:secret`, a key of `lightfill keys create`.",
        auto_error=False,
    )
)
"""Lets the OpenAPI document say which routes need a key; the functions below read it."""
_CHALLENGE = {"www-authenticate": 'Key realm="lightfill"'}


@dataclass(frozen=True)
class Caller:
    """Whose requests and files a call is about. owner: None sees everybody's."""

    owner: str | None


async def find_caller(request: Request, _: Annotated[str | None, _IN_OPENAPI]) -> Caller:
    """Who shows a key (`Authorization: Key id:secret`); HTTPException 401 for everybody else."""
    return await _found(request, tokens=False)


async def find_uploader(request: Request, _: Annotated[str | None, _IN_OPENAPI]) -> Caller:
    """Who shows a key, or a token that was given for one (`Authorization: Bearer ...`)."""
    return await _found(request, tokens=True)


async def find_holder(request: Request) -> Caller:
    """Who calls a URL that is a permission by itself: nobody in particular, or who shows a key."""
    if "authorization" in request.headers:
        return await _found(request, tokens=True)
    return Caller(None)


async def find_reader(request: Request) -> Caller:
    """As `find_holder`; with `private_files`, who shows a key."""
    if _site(request).settings.private_files:
        return await _found(request, tokens=True)
    return await find_holder(request)


async def count_caller(request: Request, who: Annotated[Caller, Depends(find_caller)]) -> Caller:
    """As `find_caller`, counted by `requests_per_minute`; raises RateLimited."""
    return _counted(request, who)


async def count_uploader(
    request: Request, who: Annotated[Caller, Depends(find_uploader)]
) -> Caller:
    """As `find_uploader`, counted in the same way."""
    return _counted(request, who)


async def is_active(site: Site, key_id: str) -> bool:
    """Whether the key is there and not revoked; a server without keys takes everybody."""
    if not site.asks_for_keys:
        return True
    return (await _known(site, key_id)).active


Who = Annotated[Caller, Depends(find_caller)]
"""The parameter of a route that only known callers may use."""
CountedWho = Annotated[Caller, Depends(count_caller)]
"""The same of one that makes work."""
CountedUploader = Annotated[Caller, Depends(count_uploader)]
Holder = Annotated[Caller, Depends(find_holder)]
Reader = Annotated[Caller, Depends(find_reader)]


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


async def _found(request: Request, *, tokens: bool) -> Caller:
    caller = await _identified(request, tokens=tokens)
    request.scope["lightfill.owner"] = caller.owner  # for the log
    return caller


async def _identified(request: Request, *, tokens: bool) -> Caller:
    site = _site(request)
    if not site.asks_for_keys:
        return Caller(None)
    scheme, _, shown = request.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "key":
        return await _with_key(site, shown.strip())
    if tokens and scheme.lower() == "bearer":
        return await _with_token(site, shown.strip())
    raise _refused(NOT_AUTHENTICATED)


async def _with_key(site: Site, shown: str) -> Caller:
    key_id, _, secret = shown.partition(":")
    if not key_id or not secret:
        raise _refused(MALFORMED)
    if not (await _known(site, key_id)).opens_with(secret):
        raise _refused(UNKNOWN)
    if site.keys.should_note(key_id):
        with suppress(DatabaseUnavailable):  # when a key was used is worth no failed request
            await site.in_thread(site.keys.note_use, key_id)
    return Caller(key_id)


async def _known(site: Site, key_id: str) -> KnownKey:
    recalled = site.keys.recall(key_id)
    return await site.in_thread(site.keys.look_up, key_id) if recalled is None else recalled


async def _with_token(site: Site, shown: str) -> Caller:
    facts = site.seal.open(TOKEN, shown)
    if facts is None or facts["owner"] is None or not await is_active(site, facts["owner"]):
        raise _refused(BAD_TOKEN)
    return Caller(facts["owner"])


def _counted(request: Request, who: Caller) -> Caller:
    address = request.client.host if request.client else ""
    _site(request).rate_limit.count(who.owner or f"address {address}")
    return who


def _refused(detail: str) -> HTTPException:
    return HTTPException(401, detail, _CHALLENGE)
