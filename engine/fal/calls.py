"""The client's one implementation: what both clients and their handles do, in coroutines."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from . import retries
from .client_errors import (
    FalClientConnectionError,
    FalClientError,
    FalClientTimeoutError,
    checked,
)
from .modes import Mode
from .reply import Reply
from .statuses import Completed, Status, parse_status
from .transport import Order, Transport
from .uploads import Upload

AnyJSON = dict[str, Any]
DEFAULT_INTERVAL_S = 0.1
STREAM_PATH = "/stream"
_CANCEL_S = 5.0
"""How long a caller who is leaving waits for the request to be cancelled."""
Send = Callable[[Transport, float], Reply]
"""send(transport, within): one call, by a caller who has so many seconds."""


class Request(NamedTuple):
    """A submitted request: its id and the URLs of its reply to the submit."""

    request_id: str
    response_url: str
    status_url: str
    cancel_url: str


@dataclass(frozen=True, kw_only=True)
class Following:
    """How a caller waits for an answer.

    timeout: seconds for everything together, None for ever; then the request is cancelled.
    abandon: cancel it too when the caller is interrupted, as fal does when a `run` disconnects.
    """

    with_logs: bool = False
    interval: float = DEFAULT_INTERVAL_S
    on_enqueue: Callable[[str], Any] | None = None
    on_queue_update: Callable[[Status], Any] | None = None
    timeout: float | None = None
    abandon: bool = False


class _OutOfTime(Exception):
    """The caller's timeout passed."""


class Calls:
    """The calls on one transport, in one mode. transport: asked for each call, so that a fork or
    another configuration is noticed."""

    def __init__(self, transport: Callable[[], Transport], mode: Mode) -> None:
        self._transport = transport
        self._mode = mode

    def request(self, application: str, request_id: str) -> Request:
        """The request of that id, without asking whether it exists."""
        url = self._transport().request_url(application, request_id)
        return Request(request_id, url, f"{url}/status", f"{url}/cancel")

    async def submit(self, order: Order, give_up: float = inf) -> Request:
        """Queue the order; FalClientHTTPError if it is refused."""
        prepared = await self._mode.call(lambda: self._transport().prepared(order))
        body = (
            await self._sent(lambda transport, s: transport.submit(prepared, within=s), give_up)
        ).body
        urls = (body["response_url"], body["status_url"], body["cancel_url"])
        return Request(body["request_id"], *urls)

    async def status(self, status_url: str, *, with_logs: bool) -> Status:
        """The request's state now."""
        return parse_status((await self._status(status_url, with_logs=with_logs)).body)

    async def events(
        self, status_url: str, *, with_logs: bool, interval: float, give_up: float = inf
    ) -> AsyncGenerator[Status, None]:
        """The status at every interval, and sooner in a thread if it changes, until Completed."""
        while True:
            reply = await self._status(status_url, with_logs=with_logs, give_up=give_up)
            status = parse_status(reply.body)
            yield status
            if isinstance(status, Completed):
                return
            await self._change(status_url, reply, min(interval, _left(give_up)))

    async def result(
        self, request: Request, *, interval: float = DEFAULT_INTERVAL_S, give_up: float = inf
    ) -> AnyJSON:
        """The output, once the request is completed; FalClientHTTPError if it failed."""
        async for _ in self.events(
            request.status_url, with_logs=False, interval=interval, give_up=give_up
        ):
            pass
        url = request.response_url
        reply = await self._sent(lambda transport, s: transport.result(url, within=s), give_up)
        output: AnyJSON = reply.body
        return output

    async def cancel(self, cancel_url: str, give_up: float = inf) -> None:
        """Cancel; FalClientHTTPError if the request is completed or unknown."""
        await self._sent(lambda transport, s: transport.cancel(cancel_url, within=s), give_up)

    async def answer(self, order: Order, following: Following) -> AnyJSON:
        """Submit, follow, and return the output: `run` and `subscribe`."""
        give_up = inf if following.timeout is None else monotonic() + following.timeout
        request = None
        try:
            request = await self.submit(order, give_up)
            await self._mode.tell(following.on_enqueue, request.request_id)
            if following.on_queue_update is not None:
                async for status in self.events(
                    request.status_url,
                    with_logs=following.with_logs,
                    interval=following.interval,
                    give_up=give_up,
                ):
                    await self._mode.tell(following.on_queue_update, status)
            return await self.result(request, interval=following.interval, give_up=give_up)
        except _OutOfTime:
            await self._cancel_quietly(request)
            request_id = None if request is None else request.request_id
            raise FalClientTimeoutError(following.timeout or 0, request_id) from None
        except (KeyboardInterrupt, asyncio.CancelledError):
            if following.abandon:
                await self._cancel_quietly(request)
            raise

    async def stream(
        self, order: Order, timeout: float | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Status replies with the log entries that are new, and the output at last.

        A caller who stops listening cancels the request. timeout: seconds without an event.
        """
        order = replace(order, path=order.path.removesuffix(STREAM_PATH))
        request = await self.submit(order)
        told, quiet_since, is_over = 0, monotonic(), False
        try:
            while not is_over:
                reply = await self._status(request.status_url, with_logs=True)
                logs = reply.body["logs"]
                is_over = reply.body["status"] == "COMPLETED"
                if len(logs) > told:
                    yield {**reply.body, "logs": logs[told:]}
                    told, quiet_since = len(logs), monotonic()
                elif timeout is not None and monotonic() - quiet_since > timeout:
                    raise FalClientTimeoutError(timeout, request.request_id)
                if not is_over:
                    await self._change(request.status_url, reply, DEFAULT_INTERVAL_S)
            yield await self.result(request)
        finally:
            if not is_over:
                await self._cancel_quietly(request)

    async def upload(self, upload: Upload) -> str:
        """Store the upload and return its URL; OSError if a local file cannot be read."""
        reply = await self._mode.call(lambda: _upload(self._transport(), upload))
        return str(checked(reply).body["access_url"])

    async def _status(self, url: str, *, with_logs: bool, give_up: float = inf) -> Reply:
        return await self._sent(
            lambda transport, s: transport.status(url, logs=with_logs, within=s), give_up
        )

    async def _change(self, url: str, seen: Reply, seconds: float) -> None:
        await self._mode.wait(lambda left: self._transport().wait(url, seen, left), seconds)

    async def _sent(self, send: Send, give_up: float = inf) -> Reply:
        """The reply to a call, repeated as fal_client repeats it; raises FalClientHTTPError."""
        for delay in (*retries.delays(), None):
            within = _left(give_up)
            try:
                reply = await self._mode.call(lambda s=within: send(self._transport(), s))  # type: ignore[misc]
            except FalClientConnectionError as error:
                _left(give_up)
                if delay is None or not error.may_pass:
                    raise
            else:
                if delay is None or not retries.may_pass(reply):
                    return checked(reply)
            await self._mode.pause(min(delay, _left(give_up)))
        raise AssertionError("the last attempt returns or raises")

    async def _cancel_quietly(self, request: Request | None) -> None:
        if request is not None:
            # it has completed meanwhile, or cannot be reached
            with suppress(FalClientError, _OutOfTime):
                await self.cancel(request.cancel_url, monotonic() + _CANCEL_S)


def _upload(transport: Transport, upload: Upload) -> Reply:
    with upload.open() as pieces:
        return transport.upload(pieces, upload.content_type, upload.file_name, upload.expires_s)


def _left(give_up: float) -> float:
    """Seconds until then; raises _OutOfTime if there are none."""
    left = give_up - monotonic()
    if left <= 0:
        raise _OutOfTime
    return left
