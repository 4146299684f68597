"""A server in a process of its own, to be killed with SIGKILL. Its jobs take 20 ms each.

    python killed_server.py DATA_DIR PORT

Leases, of jobs and of webhooks, and retries are short, so that a restart soon takes over.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx2

_PATIENCE_S = 60.0
LEASE_S = 1.0


class KilledServer:
    """Start it, `kill` it, start another on the same directory and port."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, __file__, str(data_dir), str(port)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command)
        give_up = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up:
            assert self._process.poll() is None, "it does not start"
            try:
                if httpx2.get(f"{self.origin}/ready").status_code == 200:
                    return self
            except httpx2.TransportError:
                time.sleep(0.02)
        raise TimeoutError("it is not ready")

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL, and nothing before it."""
        self._process.send_signal(signal.SIGKILL)
        assert self._process.wait() == -signal.SIGKILL


class _QuickEndpoint:
    """Every job is done at once, and says which it was."""

    def __init__(self, *_: object) -> None: ...

    def warm_up(self) -> None: ...

    def run(
        self, arguments: Mapping[str, Any], *, on_log: Callable[[str], None], **_: object
    ) -> dict[str, Any]:
        on_log("step 1/1")
        time.sleep(0.02)
        return {"prompt": arguments["prompt"]}

    def close(self) -> None: ...


def _serve(data_dir: str, port: str) -> None:
    from lightfill.engine.fal import endpoint
    from lightfill.engine.fal.settings import Settings
    from lightfill.engine.server.serve import Server, bound
    from lightfill.engine.server.site import Site
    from lightfill.engine.server.webhooks import WebhookPolicy

    endpoint.Endpoint = _QuickEndpoint  # type: ignore[assignment, misc]
    settings = Settings(
        data_dir=Path(data_dir), port=int(port), allow_private_addresses=True, lease_s=LEASE_S,
        heartbeat_s=LEASE_S / 4,
    )  # fmt: skip
    listening, settings = bound(settings)
    policy = WebhookPolicy(
        retry_delays_s=(0.3,) * 10, lease_s=LEASE_S, timeout_s=20, poll_s=0.05, places_each=8
    )
    Server(Site.of(settings, webhooks=policy)).run(sockets=[listening])


if __name__ == "__main__":
    _serve(*sys.argv[1:])
