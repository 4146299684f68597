"""fal's Python client, answered by lightfill in this process or by a lightfill server.

    import lightfill.fal as fal_client

    result = fal_client.subscribe("fal-ai/fast-lightning-sdxl/inpainting", {
        "image_url": fal_client.upload_file("photo.png"),
        "mask_url": fal_client.upload_file("mask.png"),
        "prompt": "a red ball",
    })

The names and signatures are those of fal_client 1.0; docs/fal-python.md lists the differences.
Beside them: `configure`, `shutdown`, `Settings` and `FalClientConnectionError`. `base_url`, of a
client, in `configure` or as LIGHTFILL_BASE_URL, names a server of `lightfill serve` that answers.
Needs `pip install 'lightfill[fal]'`. Nothing is opened or started before the first call.
"""

from typing import TYPE_CHECKING, Any

from . import __version__
from .engine.fal.async_client import AsyncClient
from .engine.fal.client import SyncClient
from .engine.fal.client_errors import (
    FalClientConnectionError,
    FalClientError,
    FalClientHTTPError,
    FalClientTimeoutError,
)
from .engine.fal.encoding import encode, encode_file, encode_image
from .engine.fal.handles import AsyncRequestHandle, SyncRequestHandle
from .engine.fal.lifecycle import (
    ObjectExpiration,
    StorageACL,
    StorageACLDecision,
    StorageACLRule,
    StorageSettings,
)
from .engine.fal.statuses import Completed, InProgress, Queued, Status

if TYPE_CHECKING:
    from .engine.fal.runtime import configure, shutdown
    from .engine.fal.settings import Settings

__all__ = [
    "AsyncClient",
    "AsyncRequestHandle",
    "Completed",
    "FalClientConnectionError",
    "FalClientError",
    "FalClientHTTPError",
    "FalClientTimeoutError",
    "InProgress",
    "ObjectExpiration",
    "Queued",
    "Settings",
    "Status",
    "StorageACL",
    "StorageACLDecision",
    "StorageACLRule",
    "StorageSettings",
    "SyncClient",
    "SyncRequestHandle",
    "__version__",
    "async_client",
    "cancel",
    "cancel_async",
    "configure",
    "encode",
    "encode_file",
    "encode_image",
    "result",
    "result_async",
    "run",
    "run_async",
    "shutdown",
    "status",
    "status_async",
    "stream",
    "stream_async",
    "submit",
    "submit_async",
    "subscribe",
    "subscribe_async",
    "sync_client",
    "upload",
    "upload_async",
    "upload_file",
    "upload_file_async",
    "upload_image",
    "upload_image_async",
    "version_tuple",
]

version_tuple = tuple(int(part) if part.isdecimal() else part for part in __version__.split("."))

sync_client = SyncClient()
run = sync_client.run
subscribe = sync_client.subscribe
submit = sync_client.submit
status = sync_client.status
result = sync_client.result
cancel = sync_client.cancel
stream = sync_client.stream
upload = sync_client.upload
upload_file = sync_client.upload_file
upload_image = sync_client.upload_image

async_client = AsyncClient()
run_async = async_client.run
subscribe_async = async_client.subscribe
submit_async = async_client.submit
status_async = async_client.status
result_async = async_client.result
cancel_async = async_client.cancel
stream_async = async_client.stream
upload_async = async_client.upload
upload_file_async = async_client.upload_file
upload_image_async = async_client.upload_image

_LATER = {"Settings": "settings", "configure": "runtime", "shutdown": "runtime"}
_NOT_HERE = {
    "realtime": "the endpoint is not a realtime one; use subscribe or stream",
    "realtime_async": "the endpoint is not a realtime one; use subscribe_async or stream_async",
    "ws_connect": "the endpoint has no WebSocket; use subscribe or stream",
    "ws_connect_async": "the endpoint has no WebSocket; use subscribe_async or stream_async",
    "RealtimeConnection": "the endpoint is not a realtime one; use subscribe or stream",
    "AsyncRealtimeConnection": "the endpoint is not a realtime one; use subscribe or stream",
    "set_get_current_app": "it serves applications hosted by fal; leave it out",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:  # they import numpy, which programs that only pass URLs on may not need
        from importlib import import_module

        value = getattr(import_module(f".engine.fal.{_LATER[name]}", __package__), name)
        globals()[name] = value
        return value
    reason = f"; {_NOT_HERE[name]}" if name in _NOT_HERE else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{reason}")
