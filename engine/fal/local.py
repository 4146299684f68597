"""The transport that leaves nothing: lightfill in this process."""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from math import inf

from ..errors import LightfillError
from .client_errors import checked
from .local_inputs import replaced
from .reply import Reply
from .runtime import Runtime
from .service import APPLICATION, Service, reply
from .transport import Order
from .validation import error_body

_REQUEST = re.compile(r"(?:.*/)?([^/]+/[^/]+)/requests/([^/]+?)(?:/(?:status|cancel|response))?/?")


class LocalTransport:
    """`Transport` on a runtime of this process, where a caller sees every request."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._service = Service(runtime.queue, _queue_url(runtime))

    def request_url(self, application: str, request_id: str) -> str:
        return self._service.request_url(application, request_id)

    def prepared(self, order: Order) -> Order:
        try:
            return replace(order, arguments=replaced(order.arguments, self._runtime.files.keep))
        except LightfillError as error:
            checked(reply(*error_body(error), request_id=""))
            raise

    def submit(self, order: Order, *, within: float = inf) -> Reply:  # noqa: ARG002
        answer = self._service.submit(order)
        if answer.is_success:
            self._runtime.work()
        return answer

    def status(self, status_url: str, *, logs: bool, within: float = inf) -> Reply:  # noqa: ARG002
        if (request_id := _request_id(status_url)) is None:
            return _not_found(status_url)
        answer = self._service.status(request_id, logs=logs)
        if answer.is_success and answer.body["status"] == "IN_QUEUE":
            self._runtime.work()  # it may be left over from a process that ended
        return answer

    def result(self, response_url: str, *, within: float = inf) -> Reply:  # noqa: ARG002
        request_id = _request_id(response_url)
        return _not_found(response_url) if request_id is None else self._service.result(request_id)

    def cancel(self, cancel_url: str, *, within: float = inf) -> Reply:  # noqa: ARG002
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
