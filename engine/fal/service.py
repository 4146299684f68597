"""fal's queue protocol over a JobQueue: each call gives the reply fal would send.

Sections are those of the fal protocol. Nothing here knows HTTP or the client; both sit on top.
"""

import re
import uuid
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidInput, JobNotFound, LightfillError, StillInProgress
from .app_id import AppId
from .job import JobStatus, Priority
from .queue import JobQueue
from .reply import Reply
from .transport import PRIORITY_HEADER, TIMEOUT_HEADER, Order
from .validation import error_body
from .webhook_url import checked_webhook_url

APPLICATION = "fal-ai/fast-lightning-sdxl/inpainting"
_REQUEST_ID = re.compile(r"[!-~]{1,100}")
RETRY_AFTER_S = "5"
"""When a caller may try a full queue again: by then a job or two has left it."""


class Service:
    """Submit, status, result and cancel on `queue`. Thread-safe; it never raises LightfillError.

    queue_url: what the URLs of requests begin with, without a slash at the end. allow_private:
    whether a webhook may name a private address.
    `owner`: whose requests there are; None is everyone's.
    """

    def __init__(self, queue: JobQueue, queue_url: str, *, allow_private: bool = True) -> None:
        self._queue = queue
        self._url = queue_url
        self._allow_private = allow_private

    def submit(
        self, order: Order, *, owner: str | None = None, max_length: int | None = None
    ) -> Reply:
        """Section 5.1; 404 for another endpoint than lightfill's, 429 if the queue is full."""
        request_id = str(uuid.uuid4())
        endpoint = "/".join(part.strip("/") for part in (order.application, order.path) if part)
        if endpoint != APPLICATION:
            return reply(404, _no_such_endpoint(endpoint), request_id)
        try:
            if order.webhook_url is not None:
                checked_webhook_url(order.webhook_url, allow_private=self._allow_private)
            placed = self._queue.place(
                AppId.from_endpoint_id(APPLICATION).base,
                order.arguments,
                path="inpainting",
                owner=owner,
                webhook_url=order.webhook_url,
                max_length=max_length,
                request_id=request_id,
                priority=_priority(order.headers),
                start_timeout=_start_timeout(order.headers),
            )
        except LightfillError as error:
            return reply(*error_body(error), request_id)
        return reply(200, self._status_body(placed), request_id)

    def status(self, request_id: str, *, logs: bool = False, owner: str | None = None) -> Reply:
        """Section 5.2: 202 until the request is completed, then 200."""
        try:
            status = self._queue.status(request_id, with_logs=logs, owner=owner)
        except LightfillError as error:
            return reply(*error_body(error), request_id)
        return self._status_reply(status)

    def glance(self, request_id: str, *, logs: bool, owner: str | None) -> Reply | None:
        """As `status`, but None if that has to write, and so may wait for other writers."""
        try:
            status = self._queue.glance(request_id, with_logs=logs, owner=owner)
        except LightfillError as error:
            return reply(*error_body(error), request_id)
        return None if status is None else self._status_reply(status)

    def result(self, request_id: str, *, owner: str | None = None) -> Reply:
        """Section 5.3: the output, the request's own error, or 400 while it is not there."""
        try:
            result = self._queue.result(request_id, owner=owner)
        except StillInProgress as error:
            status = self.status(request_id, owner=owner)
            return reply(400, {**status.body, "detail": str(error)}, request_id)
        except LightfillError as error:
            return reply(*error_body(error), request_id)
        return reply(result.status_code, result.body, request_id)

    def cancel(self, request_id: str, *, owner: str | None = None) -> Reply:
        """Section 5.4."""
        try:
            outcome = self._queue.cancel(request_id, owner=owner)
        except JobNotFound:
            return reply(404, {"status": "NOT_FOUND"}, request_id)
        except LightfillError as error:
            return reply(*error_body(error), request_id)
        return reply(202 if outcome == "CANCELLATION_REQUESTED" else 400, {"status": outcome},
                     request_id)  # fmt: skip

    def request_url(self, application: str, request_id: str) -> str:
        """The response URL: owner and alias only (section 4)."""
        return f"{self._url}/{AppId.from_endpoint_id(application).base}/requests/{request_id}"

    def _status_reply(self, status: JobStatus) -> Reply:
        code = 200 if status.state == "COMPLETED" else 202
        return reply(code, self._status_body(status), status.request_id, seen=status)

    def _status_body(self, status: JobStatus) -> dict[str, Any]:
        url = self.request_url(status.application, status.request_id)
        body: dict[str, Any] = {
            "status": status.state,
            "request_id": status.request_id,
            "response_url": url,
            "status_url": f"{url}/status",
            "cancel_url": f"{url}/cancel",
            "logs": status.logs,
            "metrics": status.metrics,
        }
        if status.position is not None:
            body["queue_position"] = status.position
        if status.error is not None:
            body |= {"error": status.error, "error_type": status.error_type}
        return body


def reply(code: int, body: Any, request_id: str, *, seen: Any = None) -> Reply:
    """The reply with the headers fal sends for it (sections 8 and 11)."""
    headers = {"content-type": "application/json"}
    if _REQUEST_ID.fullmatch(request_id):  # a caller may ask for one that no header can hold
        headers["x-fal-request-id"] = request_id
    kind = body.get("error_type") if isinstance(body, Mapping) else None
    if code >= 400 and kind:
        headers["x-fal-error-type"] = str(kind)
    if code in {404, 422}:
        headers["x-fal-billable-units"] = "0"
    if code == 429:
        headers["retry-after"] = RETRY_AFTER_S
    if code == 504 and kind == "startup_timeout":
        headers["x-fal-request-timeout-type"] = "user"
    return Reply(code, body, headers, seen)


def _no_such_endpoint(endpoint: str) -> dict[str, str]:
    return {"detail": f"Path /{endpoint} not found; lightfill runs {APPLICATION}"}


def _priority(headers: Mapping[str, str]) -> Priority:
    given = headers.get(PRIORITY_HEADER, "normal")
    if given not in {"normal", "low"}:
        raise InvalidInput("priority", f"is {given!r}; write 'normal' or 'low'")
    return "low" if given == "low" else "normal"


def _start_timeout(headers: Mapping[str, str]) -> float | None:
    given = headers.get(TIMEOUT_HEADER)
    try:
        return None if given is None else float(given)
    except ValueError as error:
        raise InvalidInput("start_timeout", f"is {given!r}; give seconds") from error
