"""The one exception tree.

    LightfillError        500 internal_error
      InvalidInput        422 value_error                the request is wrong; says which field
        ImageLoadError    422 image_load_error           bytes that are not a usable picture
        ImageTooLarge     422 image_too_large            more pixels than the limit
        FileDownloadError 422 file_download_error        a URL or path that cannot be read
      BundleError         500 internal_error
        BundleNotFound    500 internal_error             no bundle in that directory
        BundleCorrupt     500 internal_error             a file is missing, altered or malformed
        ComponentMissing  500 internal_error             the bundle lacks a part asked for
      DeviceUnavailable   503 runner_scheduling_failure  the runtime or device is not here
      EngineError         500 internal_error
        EngineNotBuilt    500 internal_error             no engine for this component and size
        EngineStale       500 internal_error             built for another GPU, version or graph
        EngineCorrupt     500 internal_error             a plan differs from its record
        BuildFailed       500 internal_error             an engine cannot be built
      SessionError        500 runner_server_error        the runtime failed while running
        NonFiniteOutput   500 runner_server_error        NaN or infinity left a component
        DeviceOutOfMemory 500 runner_server_error        the GPU lacks room; says for how much
      ContractViolation   500 internal_error             wrong tensor names, dtypes or shapes
      Cancelled           499 client_cancelled           a step callback asked to stop
      ExportError         500 internal_error             a checkpoint that cannot be exported

Each class carries the HTTP status and fal's `error_type` (fal protocol, "Errors"). Every message is
one sentence that says what is wrong and ends with what to do. No foreign exception leaves the
public API: runtimes' and codecs' own errors are raised `from` inside one of these.
"""

from typing import ClassVar


class LightfillError(Exception):
    """Base of every error lightfill raises on purpose."""

    http_status: ClassVar[int] = 500
    error_type: ClassVar[str] = "internal_error"


class InvalidInput(LightfillError, ValueError):
    """The request cannot be run as written; `field` names the offending argument."""

    http_status = 422
    error_type = "value_error"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class ImageLoadError(InvalidInput):
    """The bytes are not a picture that can be decoded whole."""

    error_type = "image_load_error"


class ImageTooLarge(InvalidInput):
    """The picture has more pixels than the limit; refused before it is decoded."""

    error_type = "image_too_large"


class FileDownloadError(InvalidInput):
    """A path or URL that cannot be read."""

    error_type = "file_download_error"


class BundleError(LightfillError):
    """Something about a model bundle on disk."""


class BundleNotFound(BundleError):
    """The directory holds no bundle."""


class BundleCorrupt(BundleError):
    """A bundle file is missing, altered or malformed."""


class ComponentMissing(BundleError):
    """The bundle is sound but lacks the component that was asked for."""


class DeviceUnavailable(LightfillError):
    """The asked runtime or device is not on this machine; nothing else is tried in its place."""

    http_status = 503
    error_type = "runner_scheduling_failure"


class EngineError(LightfillError):
    """Something about TensorRT engines."""


class EngineNotBuilt(EngineError):
    """No engine was built for this component at this size; the message has the command."""


class EngineStale(EngineError):
    """An engine was built for another GPU, TensorRT version or graph than what is here."""


class EngineCorrupt(EngineError):
    """A plan is cut off or differs from what its record says was built."""


class BuildFailed(EngineError):
    """An engine cannot be built."""


class SessionError(LightfillError):
    """The runtime failed while loading or running a component."""

    error_type = "runner_server_error"


class NonFiniteOutput(SessionError):
    """A component produced NaN or infinity: an error, never a black picture."""


class DeviceOutOfMemory(SessionError):
    """The GPU, or page-locked host memory, has no room; `wanted` is how many bytes were asked for.

    What the attempt had allocated is freed, and the session stays usable.
    """

    def __init__(self, message: str, wanted: int) -> None:
        super().__init__(message)
        self.wanted = wanted


class ContractViolation(LightfillError):
    """A session was fed tensors whose names, dtypes or shapes differ from its contract."""


class Cancelled(LightfillError):
    """The step callback returned False."""

    http_status = 499
    error_type = "client_cancelled"


class ExportError(LightfillError):
    """A checkpoint cannot be turned into a bundle."""
