"""Metrics for Prometheus."""

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client.exposition import choose_encoder
from starlette.responses import PlainTextResponse

from .callers import find_caller
from .site import Site


def metrics_router(site: Site) -> APIRouter:
    """/metrics, for those with a key where keys are asked for, unless `public_metrics` is set."""
    known = [] if site.settings.public_metrics else [Depends(find_caller)]
    router = APIRouter(tags=["health"])

    @router.get(
        "/metrics",
        dependencies=known,
        response_class=PlainTextResponse,
        responses={401: {"description": "No key, or one that is not known."}},
    )
    async def metrics(request: Request) -> Response:
        """Queue, jobs, requests and webhooks in Prometheus's text formats."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        text = await site.in_thread(encode, site.metrics.registry)
        return Response(text, headers={"content-type": content_type, "cache-control": "no-store"})

    return router
