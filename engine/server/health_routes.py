"""Whether the server lives, and whether it can paint."""

from fastapi import APIRouter, Response

from .replies import json_response
from .site import Site


def health_router(site: Site) -> APIRouter:
    """/health for restarts, /ready for balancers. Neither needs a key."""
    router = APIRouter(tags=["health"])

    @router.get("/health")
    async def health() -> Response:
        """200 as long as the process answers."""
        return json_response({"status": "ok"})

    @router.get("/ready", responses={503: {"description": "Not yet, or not any more."}})
    async def ready() -> Response:
        """200 when the model is warm and the job database answers, else 503 with the reason."""
        if site.failures:
            return json_response({"status": "failed", "detail": site.failures[0]}, 503)
        if site.stopping.is_set():
            return json_response({"status": "stopping"}, 503)
        if not site.ready.is_set():
            return json_response({"status": "warming up"}, 503)
        waiting = await site.in_thread(site.queue.length)
        return json_response({"status": "ready", "waiting": waiting})

    return router
