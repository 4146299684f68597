"""The narrow seam of the client: what it asks of lightfill, here or behind HTTP."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from .reply import Reply

if TYPE_CHECKING:
    from .settings import Settings

TIMEOUT_HEADER = "x-fal-request-timeout"
PRIORITY_HEADER = "x-fal-queue-priority"
HINT_HEADER = "x-fal-runner-hint"


@dataclass(frozen=True, kw_only=True)
class Order:
    """One request as it is submitted.

    headers: fal's request headers (fal protocol, section 11), names in lower case.
    """

    application: str
    arguments: Mapping[str, Any]
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    webhook_url: str | None = None


class Transport(Protocol):
    """Carries the queue protocol's calls (fal protocol, section 5). Blocking, thread-safe.

    Every call answers with fal's own reply, errors included; FalClientConnectionError if there is
    none. The URLs are those of a submit's reply, or `request_url`. within: seconds the caller has.
    """

    def request_url(self, application: str, request_id: str) -> str:
        """The response URL of a request; its status is at /status below, cancelling at /cancel."""
        ...

    def prepared(self, order: Order) -> Order:
        """The order with arguments that are plain JSON: what is in this process only is stored."""
        ...

    def submit(self, order: Order, *, within: float = inf) -> Reply: ...

    def status(self, status_url: str, *, logs: bool, within: float = inf) -> Reply: ...

    def result(self, response_url: str, *, within: float = inf) -> Reply: ...

    def cancel(self, cancel_url: str, *, within: float = inf) -> Reply: ...

    def wait(self, status_url: str, seen: Reply, seconds: float) -> None:
        """Return when the request changed since the status reply `seen`, or after `seconds`."""
        ...

    def upload(
        self,
        data: Iterable[bytes],
        content_type: str,
        file_name: str | None,
        expires_s: float | None,
    ) -> Reply:
        """Store a file; the body is {"access_url": url}."""
        ...


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A lightfill server elsewhere. key: "id:secret", None for FAL_KEY. timeout_s: of one call."""

    base_url: str | None
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0


def transport_for(settings: "Settings | None", remote: Remote) -> Transport:
    """The server that `remote` or the settings name, else lightfill in this process.

    settings: None for the configured ones. Cheap once it is there; nothing is imported before.
    """
    if remote.base_url is None:
        from .runtime import configuration_for

        base_url = configuration_for(settings).settings.base_url
        if base_url is None:
            return _in_process(settings)
        remote = replace(remote, base_url=base_url)
    from .remotes import connected

    return connected(remote)


def _in_process(settings: "Settings | None") -> Transport:
    from .runtime import runtime

    running = runtime(settings)  # first: it tells if the extra is missing
    from .local import LocalTransport

    return LocalTransport(running)
