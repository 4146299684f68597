"""Sockets, uvicorn and signals around the application."""

import logging
import shlex
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

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
    reach without keys, or files that need keys where there are none.
    """
    authentication = settings.authentication
    if authentication is None:
        authentication = not (is_loopback(settings.host) and _is_here(settings.public_url))
    if not authentication and not is_loopback(settings.host):
        raise InvalidInput(
            "authentication",
            f"cannot be off on {settings.host}, which other machines reach; "
            "make a key with `lightfill keys create`, or listen on 127.0.0.1",
        )
    if settings.private_files and not authentication:
        raise InvalidInput(
            "private_files", "needs callers with keys; serve with --auth, or leave it out"
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
        if site.asks_for_keys and not site.keys.any_active():
            logger.warning("nobody has a key yet; make one: %s", _create_command(site))
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


def _is_here(public_url: str | None) -> bool:
    """Whether a public URL, too, is for this machine only: not where a proxy lets others in."""
    return public_url is None or is_loopback(urlsplit(public_url).hostname or "")


def _create_command(site: Site) -> str:
    """What makes a key in this server's database, but for the password of its URL."""
    if site.settings.database_url is not None:
        where = f"--database {shlex.quote(site.queue.database.shown_url)}"
    else:
        where = f"--data-dir {shlex.quote(str(site.settings.data_dir))}"
    return f"lightfill keys create {where}"


def _reachable(host: str) -> str:
    """How others may call a host: this machine's name where it listens on all addresses."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104, compared
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
