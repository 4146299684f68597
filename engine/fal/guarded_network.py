"""The network as one fetch or webhook may use it: checked addresses, one deadline, bounded bytes.

httpcore asks its backend for a TCP connection to a host; this backend resolves the host, refuses
addresses that are not public, and connects to the very addresses it checked. TLS still verifies,
and sends as SNI, the host's name. No proxy variable and no .netrc is consulted.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpcore2

from . import addresses
from .addresses import Address, Resolve
from .urls import Url

_USER_AGENT = b"lightfill (+https://github.com/lightfill/lightfill)"


class AddressRefused(Exception):
    """The host has an address that callers may not reach."""


class TooMuchData(Exception):
    """The server sent more than the response may take on the wire."""


@dataclass
class Budget:
    """What is left of one fetch (redirects included) or webhook: seconds and bytes received."""

    seconds: float
    wire_bytes: int
    _start: float = field(default_factory=time.monotonic)

    def seconds_left(self) -> float:
        """Time left; raises httpcore2.ReadTimeout when there is none."""
        left = self._start + self.seconds - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the deadline has passed")
        return left

    def receive(self, count: int) -> None:
        """Count bytes; raises TooMuchData."""
        self.wire_bytes -= count
        if self.wire_bytes < 0:
            raise TooMuchData


@dataclass(frozen=True)
class Guard:
    """How callers' hosts are reached: who resolves them, and whether private addresses will do."""

    resolve: Resolve
    allow_private: bool

    @contextmanager
    def exchange(
        self,
        method: str,
        url: Url,
        budget: Budget,
        headers: Sequence[tuple[bytes, bytes]],
        content: bytes | None = None,
    ) -> Iterator[httpcore2.Response]:
        """One request on a connection of its own; its body is not read. Follows no redirect.

        Raises AddressRefused, TooMuchData and httpcore2's own errors.
        """
        backend = GuardedBackend(budget, self.resolve, allow_private=self.allow_private)
        address = httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target)
        headers = [
            (b"Host", url.authority.encode("ascii")),
            (b"User-Agent", _USER_AGENT),
            (b"Accept", b"*/*"),
            (b"Accept-Encoding", b"identity"),
            (b"Connection", b"close"),
            *headers,
        ]
        tls = self._tls if url.scheme == "https" else None
        with (
            httpcore2.ConnectionPool(tls, network_backend=backend) as pool,
            pool.stream(method, address, headers=headers, content=content) as response,
        ):
            yield response

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpcore2.default_ssl_context()  # reads every root: once, and only if it is used


class GuardedBackend(httpcore2.NetworkBackend):
    """httpcore's network for one exchange, within a `Budget`."""

    def __init__(self, budget: Budget, resolve: Resolve, *, allow_private: bool) -> None:
        self._budget = budget
        self._resolve = resolve
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # the budget's deadline covers everything
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        try:
            found = addresses.addresses_of(host, port, self._budget.seconds_left(), self._resolve)
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        # One private address among public ones is no accident either.
        if not self._allow_private and not all(map(addresses.is_public, found)):
            raise AddressRefused
        return _GuardedStream(self._connect(found, port), self._budget)

    def _connect(self, found: list[Address], port: int) -> socket.socket:
        """The first address that accepts; each gets an equal share of the time left."""
        failure: OSError = OSError("no address")
        for position, address in enumerate(found):
            share = self._budget.seconds_left() / (len(found) - position)
            try:
                return socket.create_connection((str(address), port), share)
            except OSError as error:
                failure = error
        raise httpcore2.ConnectError(failure.strerror or "connection timed out") from failure


class _GuardedStream(httpcore2.NetworkStream):
    """A socket whose every operation ends by the deadline and whose bytes are counted."""

    def __init__(self, sock: socket.socket, budget: Budget) -> None:
        self._socket = sock
        self._budget = budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        try:
            self._socket.settimeout(self._budget.seconds_left())
            data = self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error
        self._budget.receive(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        try:
            self._socket.settimeout(self._budget.seconds_left())
            self._socket.sendall(buffer)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        try:
            # The timeout holds for the handshake as a whole.
            self._socket.settimeout(self._budget.seconds_left())
            wrapped = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except TimeoutError as error:
            self.close()
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            self.close()
            reason = getattr(error, "verify_message", "") or getattr(error, "reason", "")
            raise httpcore2.ConnectError(f"TLS failed: {reason or error}") from error
        return _GuardedStream(wrapped, self._budget)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object" and isinstance(self._socket, ssl.SSLSocket):
            return self._socket
        return None
