"""Handles: a submitted request, to be asked, awaited and cancelled."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from .calls import DEFAULT_INTERVAL_S, AnyJSON, Request
from .modes import finish, iterate
from .statuses import Status

if TYPE_CHECKING:
    from .async_client import AsyncClient
    from .client import SyncClient


@dataclass(frozen=True)
class _Handle:
    """What both handles know; the URLs are where a server would offer the request."""

    request_id: str
    response_url: str = field(repr=False)
    status_url: str = field(repr=False)
    cancel_url: str = field(repr=False)

    @property
    def _request(self) -> Request:
        return Request(self.request_id, self.response_url, self.status_url, self.cancel_url)


@dataclass(frozen=True)
class SyncRequestHandle(_Handle):
    """A request of a `SyncClient`. Every method may raise FalClientHTTPError."""

    client: "SyncClient" = field(repr=False)

    @classmethod
    def from_request_id(cls, client: "SyncClient", application: str, request_id: str) -> Self:
        """The handle of a request by its id; whether there is one shows when it is asked."""
        return cls(*client._calls.request(application, request_id), client)

    def status(self, *, with_logs: bool = False) -> Status:
        """Queued, InProgress or Completed."""
        return finish(self.client._calls.status(self.status_url, with_logs=with_logs))

    def iter_events(
        self, *, with_logs: bool = False, interval: float = DEFAULT_INTERVAL_S
    ) -> Iterator[Status]:
        """The status every `interval` seconds, sooner when it changes, ending with Completed."""
        calls = self.client._calls
        return iterate(calls.events(self.status_url, with_logs=with_logs, interval=interval))

    def get(self, *, interval: float = DEFAULT_INTERVAL_S) -> AnyJSON:
        """The output, once the request is completed."""
        return finish(self.client._calls.result(self._request, interval=interval))

    def cancel(self) -> None:
        """Cancel the request: in the queue it is never run, between two steps it stops."""
        finish(self.client._calls.cancel(self.cancel_url))


@dataclass(frozen=True)
class AsyncRequestHandle(_Handle):
    """A request of an `AsyncClient`. Every method may raise FalClientHTTPError."""

    client: "AsyncClient" = field(repr=False)

    @classmethod
    def from_request_id(cls, client: "AsyncClient", application: str, request_id: str) -> Self:
        """The handle of a request by its id; whether there is one shows when it is asked."""
        return cls(*client._calls.request(application, request_id), client)

    async def status(self, *, with_logs: bool = False) -> Status:
        """Queued, InProgress or Completed."""
        return await self.client._calls.status(self.status_url, with_logs=with_logs)

    async def iter_events(
        self, *, with_logs: bool = False, interval: float = DEFAULT_INTERVAL_S
    ) -> AsyncIterator[Status]:
        """The status every `interval` seconds, ending with Completed."""
        calls = self.client._calls
        events = calls.events(self.status_url, with_logs=with_logs, interval=interval)
        async for status in events:
            yield status

    async def get(self, *, interval: float = DEFAULT_INTERVAL_S) -> AnyJSON:
        """The output, once the request is completed."""
        return await self.client._calls.result(self._request, interval=interval)

    async def cancel(self) -> None:
        """Cancel the request: in the queue it is never run, between two steps it stops."""
        await self.client._calls.cancel(self.cancel_url)
