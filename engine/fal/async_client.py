"""fal_client's asyncio client: its signatures over the one implementation in calls.py."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .calls import DEFAULT_INTERVAL_S, STREAM_PATH, AnyJSON, Calls, Following
from .handles import AsyncRequestHandle
from .lifecycle import StorageSettings, UploadRepositoryId
from .modes import Cooperative
from .orders import NO_HEADERS, Priority, make_order, sent_by, start_timeout_within
from .statuses import Status
from .transport import Remote, transport_for
from .uploads import Repositories, Where, of_data, of_file, of_image

if TYPE_CHECKING:
    from PIL import Image

    from .settings import Settings


@dataclass(unsafe_hash=True)
class AsyncClient:
    """fal_client's client for asyncio, answered by lightfill here or elsewhere. It blocks no loop.

    settings: None for the configured ones. base_url: a lightfill server that answers instead, as
    the settings' own does; then `key` is one of its keys, None for FAL_KEY, and `default_timeout`
    the seconds it may take to answer a call. In process both have no effect.
    """

    key: str | None = field(default=None, repr=False)
    default_timeout: float = 120.0
    settings: "Settings | None" = field(default=None, repr=False, kw_only=True)
    base_url: str | None = field(default=None, kw_only=True)

    @cached_property
    def _calls(self) -> Calls:
        remote = Remote(base_url=self.base_url, key=self.key, timeout_s=self.default_timeout)
        return Calls(lambda: transport_for(self.settings, remote), Cooperative())

    async def run(
        self,
        application: str,
        arguments: AnyJSON,
        *,
        method: str = "POST",
        path: str = "",
        timeout: float | None = None,
        start_timeout: float | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> AnyJSON:
        """The output for the arguments; FalClientHTTPError if the request fails.

        timeout: seconds for everything. start_timeout: seconds until a worker must have begun.
        """
        order = make_order(application, sent_by(method, arguments), path=path, headers=headers,
                           hint=hint, start_timeout=start_timeout)  # fmt: skip
        return await self._calls.answer(order, Following(timeout=timeout, abandon=True))

    async def submit(
        self,
        application: str,
        arguments: AnyJSON,
        *,
        path: str = "",
        hint: str | None = None,
        webhook_url: str | None = None,
        priority: Priority | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        start_timeout: float | None = None,
    ) -> AsyncRequestHandle:
        """Queue a request and return its handle at once."""
        order = make_order(application, arguments, path=path, headers=headers, hint=hint,
                           priority=priority, start_timeout=start_timeout,
                           webhook_url=webhook_url)  # fmt: skip
        return AsyncRequestHandle(*await self._calls.submit(order), self)

    async def subscribe(
        self,
        application: str,
        arguments: AnyJSON,
        *,
        path: str = "",
        hint: str | None = None,
        with_logs: bool = False,
        interval: float = DEFAULT_INTERVAL_S,
        on_enqueue: Callable[[str], Awaitable[None] | None] | None = None,
        on_queue_update: Callable[[Status], Awaitable[None] | None] | None = None,
        priority: Priority | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        start_timeout: float | None = None,
        client_timeout: float | None = None,
    ) -> AnyJSON:
        """Queue a request, tell the callbacks about it, and return its output.

        client_timeout: seconds for everything; then the request is cancelled and
        FalClientTimeoutError raised. start_timeout: seconds until a worker must have begun.
        """
        start_timeout = start_timeout_within(start_timeout, client_timeout)
        order = make_order(application, arguments, path=path, headers=headers, hint=hint,
                           priority=priority, start_timeout=start_timeout)  # fmt: skip
        following = Following(with_logs=with_logs, interval=interval, on_enqueue=on_enqueue,
                              on_queue_update=on_queue_update, timeout=client_timeout)  # fmt: skip
        return await self._calls.answer(order, following)

    async def get_handle(self, application: str, request_id: str) -> AsyncRequestHandle:
        """The handle of a request by its id."""
        return await asyncio.to_thread(
            AsyncRequestHandle.from_request_id, self, application, request_id
        )

    async def status(self, application: str, request_id: str, *, with_logs: bool = False) -> Status:
        """Queued, InProgress or Completed."""
        handle = await self.get_handle(application, request_id)
        return await handle.status(with_logs=with_logs)

    async def result(self, application: str, request_id: str) -> AnyJSON:
        """The output, once the request is completed."""
        handle = await self.get_handle(application, request_id)
        return await handle.get()

    async def cancel(self, application: str, request_id: str) -> None:
        """Cancel the request."""
        handle = await self.get_handle(application, request_id)
        await handle.cancel()

    async def stream(
        self,
        application: str,
        arguments: AnyJSON,
        *,
        path: str = STREAM_PATH,
        timeout: float | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> AsyncIterator[dict[str, Any]]:
        """What happens, as status objects with the new log entries, and the output at last."""
        order = make_order(application, arguments, path=path, headers=headers)
        async with aclosing(self._calls.stream(order, timeout)) as events:
            async for event in events:
                yield event

    async def upload(
        self,
        data: str | bytes,
        content_type: str,
        file_name: str | None = None,
        *,
        repository: UploadRepositoryId | None = None,
        fallback_repository: Repositories | None = None,
        lifecycle: StorageSettings | None = None,
    ) -> str:
        """Store the data, text as UTF-8, and return its URL."""
        where = Where(repository=repository, fallback_repository=fallback_repository,
                      lifecycle=lifecycle)  # fmt: skip
        return await self._calls.upload(of_data(data, content_type, file_name, where))

    async def upload_file(
        self,
        path: str | os.PathLike[str],
        *,
        repository: UploadRepositoryId | None = None,
        fallback_repository: Repositories | None = None,
        lifecycle: StorageSettings | None = None,
    ) -> str:
        """Store a local file and return its URL; OSError if it cannot be read."""
        where = Where(repository=repository, fallback_repository=fallback_repository,
                      lifecycle=lifecycle)  # fmt: skip
        return await self._calls.upload(of_file(path, where))

    async def upload_image(
        self,
        image: "Image.Image",
        format: str = "jpeg",  # noqa: A002, fal's name
        *,
        repository: UploadRepositoryId | None = None,
        fallback_repository: Repositories | None = None,
        lifecycle: StorageSettings | None = None,
    ) -> str:
        """Store a Pillow picture as a file of `format` and return its URL."""
        where = Where(repository=repository, fallback_repository=fallback_repository,
                      lifecycle=lifecycle)  # fmt: skip
        return await self._calls.upload(of_image(image, format, where))
