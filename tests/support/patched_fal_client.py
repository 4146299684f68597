"""PyPI fal-client, its hosts replaced, blocking and asyncio through the same calls."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fal_client
import httpx
import pytest
from running_server import RunningServer


class Fal:
    """fal_client's blocking or asyncio client, asked alike: coroutines are run to their end."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self._client = client
        self._loop = loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: self.done(getattr(self._client, name)(*args, **options))

    def done(self, value: Any) -> Any:
        """What it comes to: a coroutine's result, a generator's items."""
        if inspect.isasyncgen(value):
            return self.done(_collected(value))
        if inspect.iscoroutine(value):
            assert self._loop is not None
            return self._loop.run_until_complete(value)
        return list(value) if inspect.isgenerator(value) else value


async def _collected(items: Any) -> list[Any]:
    return [item async for item in items]


def point(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    """fal_client's hosts become the server's prefixes, as docs/moving-from-fal.md says."""
    from fal_client import client

    monkeypatch.setattr(client, "RUN_URL_FORMAT", f"{origin}/run/")
    monkeypatch.setattr(client, "QUEUE_URL_FORMAT", f"{origin}/queue/")
    monkeypatch.setattr(client, "REST_URL", f"{origin}/rest")
    monkeypatch.setattr(client, "CDN_URL", f"{origin}/cdn")


Make = Callable[..., Fal]
"""make(server, key): a client of the server."""


@contextmanager
def fal_clients(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes "blocking" or "asyncio" clients, and closes what they leave open."""
    loop = asyncio.new_event_loop()
    opened = _noted(monkeypatch)

    def made(server: RunningServer, key: str = "id:secret") -> Fal:
        point(monkeypatch, server.origin)
        if kind == "blocking":
            return Fal(fal_client.SyncClient(key=key), None)
        return Fal(fal_client.AsyncClient(key=key), loop)

    yield made
    for client in opened:
        if isinstance(client, httpx.Client):
            client.close()
        else:
            loop.run_until_complete(client.aclose())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _noted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every httpx client fal_client opens from now on: it closes none of them itself."""
    found: list[Any] = []
    for kind in (httpx.Client, httpx.AsyncClient):

        def noted(self: Any, *args: Any, _really: Any = kind.__init__, **options: Any) -> None:
            found.append(self)
            _really(self, *args, **options)

        monkeypatch.setattr(kind, "__init__", noted)
    return found
