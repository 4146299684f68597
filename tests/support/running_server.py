"""A real lightfill server of one test: uvicorn in a thread of its own, on a free port."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from lightfill.engine.fal.settings import Settings
from lightfill.engine.server.serve import Server, bound
from lightfill.engine.server.site import Site

ENDPOINT = "fal-ai/fast-lightning-sdxl/inpainting"
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class RunningServer:
    """Where it is, and what it works on."""

    origin: str
    site: Site
    server: Server

    def client(self, key: str | None = None, **options: Any) -> httpx2.Client:
        """A plain HTTP client of it; `key`: "id:secret"."""
        headers = {} if key is None else {"authorization": f"Key {key}"}
        return httpx2.Client(base_url=self.origin, headers=headers, timeout=60.0, **options)


@contextmanager
def running(settings: Settings, **configuration: Any) -> Iterator[RunningServer]:
    """A server on any free port, ready; stopped, as by SIGTERM, at the end of the block."""
    listening, settings = bound(settings)
    site = Site.of(settings, **configuration)
    server = Server(site)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), name="test server")
    thread.start()
    try:
        origin = f"http://127.0.0.1:{settings.port}"
        _wait_until_ready(origin)
        yield RunningServer(origin, site, server)
    finally:
        server.should_exit = True
        thread.join(_PATIENCE_S)
        listening.close()
        assert not thread.is_alive(), "the server does not stop"


def _wait_until_ready(origin: str) -> None:
    pause = threading.Event()
    for _ in range(int(_PATIENCE_S / 0.02)):
        try:
            if httpx2.get(f"{origin}/ready", verify=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        pause.wait(0.02)
    raise TimeoutError(f"{origin} is not ready after {_PATIENCE_S:g} s")
