"""Sockets, uvicorn and signals around the application."""

import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import uvicorn
from anyio import to_thread

from ..errors import InvalidInput, ServerUnavailable
from ..fal.settings import Settings
from .app import create_app
from .site import Site

_GIVE_UP_S = 5.0
_LAST_REPLIES_S = 5
"""How long replies may take to be sent once no job runs any more."""

logger = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(settings: Settings) -> tuple[socket.socket, Settings]:
    """The listening socket, and the settings with the port and public URL that it gives.

    Raises ServerUnavailable if the address cannot be had, InvalidInput for a host that others
    reach without keys.
    """
    authentication = settings.authentication
    if authentication is None:
        authentication = not is_loopback(settings.host)
    if not authentication and not is_loopback(settings.host):
        raise InvalidInput(
            "authentication",
            f"cannot be off on {settings.host}, which other machines reach; "
            "make a key with `lightfill keys create`, or listen on 127.0.0.1",
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With its protocol named, asyncio sets TCP_NODELAY: without, a reply waits 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise ServerUnavailable(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another --port or --host"
        ) from error
    port = listening.getsockname()[1]
    public_url = settings.public_url or f"http://{_reachable(settings.host)}:{port}"
    return listening, replace(
        settings, port=port, public_url=public_url, authentication=authentication
    )


def serve(settings: Settings, started: Callable[[Settings], object], **configuration: Any) -> None:
    """Serve until SIGINT or SIGTERM; `started` is told the settings in force.

    Then no new job is taken, running ones have `shutdown_grace_s` to finish, and what is not done
    goes back to the queue. configuration: of `Runtime`.
    """
    listening, settings = bound(settings)
    with listening:
        site = Site.of(settings, **configuration)
        server = Server(site)
        started(settings)
        server.run(sockets=[listening])


class Server(uvicorn.Server):
    """uvicorn that finishes its jobs before it closes its connections."""

    def __init__(self, site: Site) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(site),
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_LAST_REPLIES_S,
            )
        )
        self._site = site

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        runtime = self._site.runtime
        grace_s = 0.0 if self.force_exit else self._site.settings.shutdown_grace_s
        await to_thread.run_sync(lambda: runtime.stop_work(grace_s, _GIVE_UP_S))
        self._site.stopping.set()  # whoever follows a request that still waits is let go
        await super().shutdown(sockets)


def _reachable(host: str) -> str:
    """How others may call a host: this machine's name where it listens on all addresses."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104, compared
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
