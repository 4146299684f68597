"""The transport that leaves nothing: lightfill in this process."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import LightfillError
from .client_errors import checked
from .files import Files
from .reply import Reply
from .runtime import Runtime
from .service import APPLICATION, Service, reply
from .transport import Order
from .validation import error_body

_REQUEST = re.compile(r"(?:.*/)?([^/]+/[^/]+)/requests/([^/]+?)(?:/(?:status|cancel|response))?/?")
_FILE_FIELDS = ("image_url", "mask_url")
_LONGEST_PATH = 4096
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:")
"""How one begins; one letter alone is a drive."""


class LocalTransport:
    """`Transport` on a runtime of this process, where a caller sees every request."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._service = Service(runtime.queue, _queue_url(runtime))

    def request_url(self, application: str, request_id: str) -> str:
        return self._service.request_url(application, request_id)

    def prepared(self, order: Order) -> Order:
        try:
            return replace(order, arguments=_stored(order.arguments, self._runtime.files))
        except LightfillError as error:
            checked(reply(*error_body(error), request_id=""))
            raise

    def submit(self, order: Order) -> Reply:
        answer = self._service.submit(order)
        if answer.is_success:
            self._runtime.work()
        return answer

    def status(self, status_url: str, *, logs: bool) -> Reply:
        if (request_id := _request_id(status_url)) is None:
            return _not_found(status_url)
        answer = self._service.status(request_id, logs=logs)
        if answer.is_success and answer.body["status"] == "IN_QUEUE":
            self._runtime.work()  # it may be left over from a process that ended
        return answer

    def result(self, response_url: str) -> Reply:
        request_id = _request_id(response_url)
        return _not_found(response_url) if request_id is None else self._service.result(request_id)

    def cancel(self, cancel_url: str) -> Reply:
        request_id = _request_id(cancel_url)
        return _not_found(cancel_url) if request_id is None else self._service.cancel(request_id)

    def wait(self, status_url: str, seen: Reply, seconds: float) -> None:  # noqa: ARG002
        with suppress(LightfillError):  # the next status tells what is wrong
            self._runtime.queue.wait(seen.seen.request_id, seconds, since=seen.seen)

    def upload(
        self,
        data: Iterable[bytes],
        content_type: str,
        file_name: str | None,
        expires_s: float | None,
    ) -> Reply:
        try:
            url = self._runtime.files.store(data, content_type, file_name, expires_s=expires_s)
        except LightfillError as error:
            return reply(*error_body(error), request_id="")
        return Reply(200, {"access_url": url})


def _queue_url(runtime: Runtime) -> str:
    """Where a server would offer the requests; a name of our own where there is none."""
    public = runtime.settings.public_url
    return "lightfill://local/queue" if public is None else f"{public}/queue"


def _request_id(url: str) -> str | None:
    """The id in the URL of a request to lightfill's endpoint; None if it is another's."""
    found = _REQUEST.fullmatch(url)
    is_ours = found is not None and APPLICATION.startswith(f"{found[1]}/")
    return found[2] if found is not None and is_ours else None


def _not_found(url: str) -> Reply:
    return reply(404, {"detail": f"Path {url} not found"}, request_id="")


def _stored(arguments: Any, files: Files) -> Any:
    """The arguments with files that only this process has replaced by URLs of stored ones."""
    if not isinstance(arguments, Mapping):
        return arguments
    kept = dict(arguments)
    for field in _FILE_FIELDS:
        if field in kept and (_is_local(kept[field]) or _is_path(kept[field])):
            kept[field] = files.keep(kept[field], field)
    embeddings = kept.get("embeddings")
    if isinstance(embeddings, list | tuple):
        kept["embeddings"] = [
            {**each, "path": files.keep(each["path"], f"embeddings.{index}.path")}
            if isinstance(each, Mapping) and _is_local(each.get("path"))
            else each
            for index, each in enumerate(embeddings)
        ]
    return kept


def _is_local(value: Any) -> bool:
    """Whether it is a path, picture, array or bytes: what no JSON carries to a worker."""
    if not isinstance(value, str):
        is_json = value is None or isinstance(value, bool | int | float | list | Mapping)
        return not is_json
    if value[:5].lower() == "file:":
        return True
    try:
        return len(value) < _LONGEST_PATH and Path(value).is_file()
    except (OSError, ValueError):
        return False


def _is_path(value: Any) -> bool:
    """Whether it can be nothing but a path, though there is no such file: better said at once."""
    return isinstance(value, str) and 0 < len(value) < _LONGEST_PATH and not _URL.match(value)
