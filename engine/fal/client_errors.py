"""The errors fal's client raises, as part of lightfill's tree.

LightfillError
  FalClientError
    FalClientHTTPError        an error reply: `status_code`, and fal's `detail` in `message`
    FalClientTimeoutError     the caller's own timeout passed; also a TimeoutError
    FalClientConnectionError  no reply; also a ConnectionError. fal_client raises httpx's
"""

from dataclasses import dataclass
from typing import Any

from ..errors import LightfillError
from .reply import Reply


class FalClientError(LightfillError):
    """Base of what the client raises."""


@dataclass(eq=False)
class FalClientHTTPError(FalClientError):
    """The reply to a call, or a request's result, is an error (fal protocol, section 8).

    message: the body's `detail`: text, or a list with one item per mistake.
    """

    message: Any
    status_code: int
    response_headers: dict[str, str]
    response: Reply
    error_type: str | None = None  # type: ignore[assignment, misc]  # varies

    def __str__(self) -> str:
        return f"{self.message}"


@dataclass(eq=False)
class FalClientTimeoutError(FalClientError, TimeoutError):
    """`timeout` seconds passed before the request was completed; it has been cancelled."""

    timeout: float
    request_id: str | None = None

    def __str__(self) -> str:
        request = "Request" if self.request_id is None else f"Request {self.request_id}"
        return f"{request} timed out after {self.timeout} seconds"


class FalClientConnectionError(FalClientError, ConnectionError):
    """A server cannot be reached, does not answer in time, or speaks another protocol.

    may_pass: whether another attempt may help; where it may, all of fal_client's have failed.
    """

    http_status = 503
    error_type = "runner_connection_error"

    def __init__(self, message: str, *, may_pass: bool = True) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def checked(reply: Reply) -> Reply:
    """`reply`, or the FalClientHTTPError it stands for."""
    if reply.is_success:
        return reply
    message: Any = reply.text
    error_type = None
    if isinstance(reply.body, dict):
        message = reply.body.get("detail", message)
        error_type = reply.body.get("error_type")
    raise FalClientHTTPError(
        message,
        reply.status_code,
        dict(reply.headers),
        reply,
        error_type or reply.headers.get("x-fal-error-type"),
    )
