"""The ASGI application of one site."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from anyio import to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from ... import __version__
from ..errors import LightfillError
from .file_routes import file_router
from .health_routes import health_router
from .layers import BodyLimit, Faults, OnlyThisMachine, RequestIds
from .metrics_routes import metrics_router
from .model_routes import model_router
from .observing import Observed
from .openapi import document
from .page_routes import page_router
from .proxy import Proxy
from .queue_routes import queue_router
from .replies import answer_errors
from .run_routes import run_router
from .site import Site
from .upload_routes import upload_router
from .webhook_routes import webhook_router

_EXPOSED = [
    "x-fal-request-id", "x-fal-error-type", "x-fal-billable-units", "x-fal-request-timeout-type",
    "etag", "retry-after", "content-range", "content-disposition",
]  # fmt: skip
_COUNT_FOR_THEMSELVES = re.compile(r"PUT /files/.*|POST /cdn/files/upload")
_ROUTERS = (
    queue_router, run_router, upload_router, file_router, webhook_router, metrics_router,
    health_router, model_router,
)  # fmt: skip

logger = logging.getLogger(__name__)


def create_app(site: Site) -> FastAPI:
    """The application; its lifespan warms the model up and starts the workers."""
    app = FastAPI(
        title="lightfill",
        version=__version__,
        summary="fal-ai/fast-lightning-sdxl/inpainting on this machine",
        lifespan=lambda _: _life(site),
        docs_url=None,  # Swagger's page fetches its scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.site = site
    routers = [*(made(site) for made in _ROUTERS), page_router()]
    for router in routers:
        app.include_router(router)
    document(app)
    answer_errors(app, [route for router in routers for route in router.routes])
    _add_layers(app, site)
    return app


def _add_layers(app: FastAPI, site: Site) -> None:
    """From the inside out; what is added last sees a request first."""
    settings = site.settings
    app.add_middleware(
        BodyLimit, max_bytes=settings.max_request_bytes, unlimited=_COUNT_FOR_THEMSELVES
    )
    app.add_middleware(Proxy)
    origins = _origins(site)
    if not site.asks_for_keys:
        hosts = [host] if (host := urlsplit(str(settings.public_url)).hostname) else []
        app.add_middleware(OnlyThisMachine, hosts=hosts, origins=origins)
    app.add_middleware(Faults)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
    )
    app.add_middleware(RequestIds)
    app.add_middleware(Observed, metrics=site.metrics)


def _origins(site: Site) -> list[str]:
    given = site.settings.cors_origins
    if given is None:
        return ["*"] if site.asks_for_keys else []
    return [origin.strip().rstrip("/") for origin in given.split(",") if origin.strip()]


@asynccontextmanager
async def _life(site: Site) -> AsyncIterator[None]:
    """What runs beside the requests, from start to stop."""
    site.deliverer.start()
    warming_up = asyncio.create_task(_warm_up(site))
    try:
        yield
    finally:
        warming_up.cancel()
        await asyncio.gather(warming_up, return_exceptions=True)
        await to_thread.run_sync(site.close)


async def _warm_up(site: Site) -> None:
    """Open the model and run it once; only then are jobs taken."""
    if site.settings.workers:
        try:
            await to_thread.run_sync(site.runtime.warm_up)
        except LightfillError as error:
            logger.critical("the model cannot be run: %s", error)
            site.failures.append(str(error))
            return
        site.runtime.work()
    site.ready.set()
