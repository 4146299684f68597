"""Uploads in all ways fal's clients know (section 7): at once, by a URL of their own, in parts."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from ..fal.parts import MAX_PARTS
from ..fal.storage import Reservation
from . import openapi_uploads as openapi
from .callers import CountedUploader, CountedWho, Holder, Who
from .replies import json_response
from .site import Site
from .uploads import IN_PARTS, ONE_FILE, Uploads, listed, parted


def upload_router(site: Site) -> APIRouter:
    """Routes below /rest/storage and /cdn, and those of upload URLs."""
    router = APIRouter(tags=["storage"])
    uploads = Uploads(site)

    @router.post("/rest/storage/auth/token", **openapi.TOKEN)
    async def token(who: Who) -> Response:
        """A token for uploads to /cdn, so that the key itself need not go there."""
        return json_response(uploads.token(who))

    @router.post("/rest/storage/upload/initiate", **openapi.INITIATE)
    async def initiate(request: Request, who: CountedWho) -> Response:
        """A URL to PUT one file to, and the one it will have."""
        reservation = await uploads.intended(request, who)
        return json_response(uploads.one_file(reservation))

    @router.post("/rest/storage/upload/initiate-multipart", **openapi.INITIATE)
    async def initiate_parts(request: Request, who: CountedWho) -> Response:
        """The same for a file in parts: PUT them to upload_url/1, /2, ..., then /complete."""
        url, upload_id = uploads.in_parts(await uploads.intended(request, who))
        return json_response({"upload_url": f"{url}/multipart/{upload_id}", "file_url": url})

    @router.post("/cdn/files/upload", **openapi.UPLOAD)
    async def upload(request: Request, who: CountedUploader) -> Response:
        """Store the body."""
        return await uploads.store(request, uploads.announced(request, who))

    @router.post("/cdn/files/upload/multipart", **openapi.UPLOAD_IN_PARTS)
    async def upload_in_parts(request: Request, who: CountedUploader) -> Response:
        """Begin a file whose parts are PUT to access_url/multipart/uploadId/1, /2, ..."""
        url, upload_id = uploads.in_parts(uploads.announced(request, who))
        return json_response({"access_url": url, "uploadId": upload_id})

    @router.put("/files/{name}", **openapi.PUT_FILE)
    async def put_file(
        request: Request, name: str, holder: Holder, upload: Annotated[str, Query()] = ""
    ) -> Response:
        """The content of a file, at the URL that was given out for it."""
        facts = await uploads.permitted(ONE_FILE, name, upload, holder)
        return await uploads.store(request, Reservation(**facts))

    @router.put("/files/{name}/multipart/{upload_id}/{number:int}", **openapi.PUT_PART)
    async def put_part(
        request: Request,
        name: str,
        upload_id: str,
        number: Annotated[int, Path(ge=1, le=MAX_PARTS)],
        holder: Holder,
    ) -> Response:
        """One part, in any order; its etag comes as header and as JSON."""
        facts = await uploads.permitted(IN_PARTS, name, upload_id, holder)
        etag = await uploads.store_part(request, parted(facts), number)
        return json_response({"partNumber": number, "etag": etag}, headers={"etag": f'"{etag}"'})

    @router.post("/files/{name}/multipart/{upload_id}/complete", **openapi.COMPLETE)
    async def complete(request: Request, name: str, upload_id: str, holder: Holder) -> Response:
        """Join the parts."""
        facts = await uploads.permitted(IN_PARTS, name, upload_id, holder)
        etags = await listed(request)
        stored = await site.on_disk(site.files.parts.join, parted(facts), etags)
        return json_response(uploads.stored(stored.name))

    return router
