"""What this server paints with: all a page or program needs to know before it asks."""

from typing import Any

from fastapi import APIRouter, Response

from ... import __version__
from ..bundle import Bundle
from ..composite import MAX_FEATHER
from ..fal.schema import STEPS
from ..fal.service import APPLICATION
from ..request import (
    IMAGE_SIZES,
    MAX_CROP_PADDING,
    MAX_IMAGES,
    MAX_SIDE,
    MIN_SIDE,
    MIN_STRENGTH,
)
from ..safety import version_for
from ..sessions import ENGINE_DEVICES
from . import openapi
from .replies import json_response
from .site import Site


def model_router(site: Site) -> APIRouter:
    """/api/model, which needs no key: it says whether the others do."""
    router = APIRouter(tags=["model"])

    @router.get("/api/model", **openapi.MODEL)
    async def model() -> Response:
        """The model, its steps and sizes, and the server's limits."""
        bundle = await site.in_thread(lambda: site.runtime.bundle)
        return json_response(description(bundle, site), headers={"cache-control": "no-cache"})

    return router


def description(bundle: Bundle, site: Site) -> dict[str, Any]:
    """The body of /api/model.

    any_size: whether every size from min_side to max_side can be painted, or only those that
    engines were built for. safety_checker: which one looks at pictures, null where there is none.
    """
    manifest, settings = bundle.manifest, site.settings
    return {
        "endpoint": APPLICATION,
        "version": __version__,
        "name": manifest.name,
        "device": settings.device,
        "natural_size": manifest.natural_size,
        "steps": sorted(set(manifest.steps) & set(STEPS)),
        "image_sizes": {
            name: {"width": width, "height": height}
            for name, (width, height) in IMAGE_SIZES.items()
        },
        "any_size": settings.device not in ENGINE_DEVICES,
        "safety_checker": version_for(bundle),
        "asks_for_keys": site.asks_for_keys,
        "limits": {
            "min_side": MIN_SIDE,
            "max_side": MAX_SIDE,
            "max_images": MAX_IMAGES,
            "min_strength": MIN_STRENGTH,
            "max_feather": MAX_FEATHER,
            "max_crop_padding": MAX_CROP_PADDING,
            "max_pixels": settings.max_pixels,
            "max_file_bytes": settings.max_download_bytes,
        },
    }
