"""The keys that webhooks are verified with."""

from fastapi import APIRouter, Response

from .replies import json_response
from .site import Site

_CACHED = {"cache-control": "public, max-age=3600"}


def webhook_router(site: Site) -> APIRouter:
    """/.well-known/jwks.json, for everybody, where fal has it and at the root."""
    router = APIRouter(tags=["webhooks"])

    @router.get("/rest/.well-known/jwks.json", include_in_schema=False)
    @router.get("/.well-known/jwks.json")
    async def jwks() -> Response:
        """The public keys of webhooks' signatures; any of them may verify one."""
        signer = await site.in_thread(site.signer)
        return json_response(signer.jwks(), headers=_CACHED)

    return router
