"""SDXL-Lightning inpainting on your own hardware.

    from lightfill import Inpainter

    with Inpainter.open() as inpainter:
        result = inpainter("photo.jpg", "mask.png", "a red ball", image_size="square")
        result.save("out.png")

Names are loaded when first used: importing lightfill costs little more than importing numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.bundle import Bundle
    from .engine.denoise import Progress
    from .engine.errors import (
        BuildFailed,
        BundleCorrupt,
        BundleError,
        BundleNotFound,
        Cancelled,
        ComponentMissing,
        ContractViolation,
        DatabaseUnavailable,
        DeviceOutOfMemory,
        DeviceUnavailable,
        EngineCorrupt,
        EngineError,
        EngineNotBuilt,
        EngineStale,
        ExportError,
        FileDownloadError,
        FileTooLarge,
        ImageLoadError,
        ImageTooLarge,
        InvalidInput,
        JobNotFound,
        LightfillError,
        NonFiniteOutput,
        QueueError,
        QueueFull,
        RateLimited,
        RequestInvalid,
        ServerUnavailable,
        SessionError,
        StartTimeout,
        StillInProgress,
        StorageError,
        WorkerLost,
    )
    from .engine.pipeline import Inpainter
    from .engine.result import Result, Timings
    from .engine.textual_inversion import Embedding

__version__ = "0.1.0"

_HOMES = {
    "BuildFailed": "errors",
    "Bundle": "bundle",
    "BundleCorrupt": "errors",
    "BundleError": "errors",
    "BundleNotFound": "errors",
    "Cancelled": "errors",
    "ComponentMissing": "errors",
    "ContractViolation": "errors",
    "DatabaseUnavailable": "errors",
    "DeviceOutOfMemory": "errors",
    "DeviceUnavailable": "errors",
    "Embedding": "textual_inversion",
    "EngineCorrupt": "errors",
    "EngineError": "errors",
    "EngineNotBuilt": "errors",
    "EngineStale": "errors",
    "ExportError": "errors",
    "FileDownloadError": "errors",
    "FileTooLarge": "errors",
    "ImageLoadError": "errors",
    "ImageTooLarge": "errors",
    "Inpainter": "pipeline",
    "InvalidInput": "errors",
    "JobNotFound": "errors",
    "LightfillError": "errors",
    "NonFiniteOutput": "errors",
    "Progress": "denoise",
    "QueueError": "errors",
    "QueueFull": "errors",
    "RateLimited": "errors",
    "RequestInvalid": "errors",
    "Result": "result",
    "ServerUnavailable": "errors",
    "SessionError": "errors",
    "StartTimeout": "errors",
    "StillInProgress": "errors",
    "StorageError": "errors",
    "Timings": "result",
    "WorkerLost": "errors",
}

__all__ = [
    "BuildFailed",
    "Bundle",
    "BundleCorrupt",
    "BundleError",
    "BundleNotFound",
    "Cancelled",
    "ComponentMissing",
    "ContractViolation",
    "DatabaseUnavailable",
    "DeviceOutOfMemory",
    "DeviceUnavailable",
    "Embedding",
    "EngineCorrupt",
    "EngineError",
    "EngineNotBuilt",
    "EngineStale",
    "ExportError",
    "FileDownloadError",
    "FileTooLarge",
    "ImageLoadError",
    "ImageTooLarge",
    "Inpainter",
    "InvalidInput",
    "JobNotFound",
    "LightfillError",
    "NonFiniteOutput",
    "Progress",
    "QueueError",
    "QueueFull",
    "RateLimited",
    "RequestInvalid",
    "Result",
    "ServerUnavailable",
    "SessionError",
    "StartTimeout",
    "StillInProgress",
    "StorageError",
    "Timings",
    "WorkerLost",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".engine.{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
