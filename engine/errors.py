"""The one exception tree.

    LightfillError        500 internal_error
      InvalidInput        422 value_error                the request is wrong; says which field
        ImageLoadError    422 image_load_error           bytes that are not a usable picture
        ImageTooLarge     422 image_too_large            more pixels than the limit
        FileDownloadError 422 file_download_error        a URL or path that cannot be read
        FileTooLarge      422 file_too_large             more bytes than the limit
        RequestInvalid    422 value_error                several fields at once, in fal's list form
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
      StorageError        500 internal_error             stored files cannot be written or read
      ContractViolation   500 internal_error             wrong tensor names, dtypes or shapes
      Cancelled           499 client_cancelled           a step callback asked to stop
      QueueError          500 internal_error
        QueueFull         429 queue_full                 as many requests wait as may
        JobNotFound       404 not_found                  no such request, or another owner's
        StillInProgress   400 bad_request                the result is not there yet
        StartTimeout      504 startup_timeout            no worker began before the deadline
        WorkerLost        503 runner_disconnected        the job's workers died, time after time
        DatabaseUnavailable 503 runner_connection_error  the job database cannot be used
      RateLimited         429 rate_limited               more requests a minute than allowed
      ServerUnavailable   503 runner_connection_error    a server that cannot be started
      ExportError         500 internal_error             a checkpoint that cannot be exported

Each class carries the HTTP status and fal's `error_type` (fal protocol, "Errors"). Every message is
one sentence that says what is wrong and ends with what to do. No foreign exception leaves the
public API: runtimes' and codecs' own errors are raised `from` inside one of these. What fal's
client raises is a branch of its own, LightfillError's child too: engine/fal/client_errors.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class LightfillError(Exception):
    """Base of every error lightfill raises on purpose."""

    http_status: ClassVar[int] = 500
    error_type: ClassVar[str] = "internal_error"


class InvalidInput(LightfillError, ValueError):
    """The request cannot be run as written; `field` names the offending argument.

    context: the limit that was passed, as fal's `ctx` names it (fal protocol, section 8).
    """

    http_status = 422
    error_type = "value_error"

    def __init__(
        self, field: str, message: str, *, context: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.reason = message
        self.context = dict(context or {})


class ImageLoadError(InvalidInput):
    """The bytes are not a picture that can be decoded whole."""

    error_type = "image_load_error"


class ImageTooLarge(InvalidInput):
    """The picture has more pixels than the limit; refused before it is decoded."""

    error_type = "image_too_large"


class FileDownloadError(InvalidInput):
    """A path or URL that cannot be read."""

    error_type = "file_download_error"


class FileTooLarge(InvalidInput):
    """A file has more bytes than the limit; reading it stopped there."""

    error_type = "file_too_large"


class RequestInvalid(InvalidInput):
    """The arguments do not follow the schema.

    detail: one item per mistake, {"type", "loc": ["body", field...], "msg", "input"[, "ctx"]}.
    """

    def __init__(self, detail: Sequence[Mapping[str, Any]]) -> None:
        self.detail = [dict(item) for item in detail]
        named = [(".".join(map(str, item["loc"][1:])), str(item["msg"])) for item in self.detail]
        field, message = named[0]
        others = "".join(f"; {name}: {text}" for name, text in named[1:])
        super().__init__(field or "arguments", message + others)


class BundleError(LightfillError):
    """Something about a model bundle on disk."""


class BundleNotFound(BundleError):
    """The directory holds no bundle."""


class BundleCorrupt(BundleError):
    """A bundle file is missing, altered or malformed."""


class ComponentMissing(BundleError):
    """What was asked for is neither in the bundle, which is sound, nor in an optional package."""


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


class StorageError(LightfillError):
    """The directory of stored files cannot be used: full, missing rights, damaged."""


class ContractViolation(LightfillError):
    """A session was fed tensors whose names, dtypes or shapes differ from its contract."""


class Cancelled(LightfillError):
    """The step callback returned False."""

    http_status = 499
    error_type = "client_cancelled"


class QueueError(LightfillError):
    """Something about queued requests; statuses are those of fal protocol, sections 5 and 8."""


class QueueFull(QueueError):
    """No room for another waiting request. Clients wait and come back (fal protocol, 9)."""

    http_status = 429
    error_type = "queue_full"


class JobNotFound(QueueError):
    """No request has this id, or it is another owner's: which of the two is not told."""

    http_status = 404
    error_type = "not_found"


class StillInProgress(QueueError):
    """The request has no result yet."""

    http_status = 400
    error_type = "bad_request"


class StartTimeout(QueueError):
    """No worker began the request before the deadline its caller set."""

    http_status = 504
    error_type = "startup_timeout"


class WorkerLost(QueueError):
    """The workers that ran the request died so often that it is not tried again."""

    http_status = 503
    error_type = "runner_disconnected"


class DatabaseUnavailable(QueueError):
    """The job database cannot be opened, reached, read or written."""

    http_status = 503
    error_type = "runner_connection_error"


class ServerUnavailable(LightfillError):
    """`lightfill serve` cannot start: its address is taken, or a part is not installed."""

    http_status = 503
    error_type = "runner_connection_error"


class RateLimited(LightfillError):
    """A caller sent more than `requests_per_minute`; the next may come after `retry_after_s`."""

    http_status = 429
    error_type = "rate_limited"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ExportError(LightfillError):
    """A checkpoint cannot be turned into a bundle."""
