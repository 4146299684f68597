"""Which addresses callers' URLs may reach, and the one resolution of a host's name.

A name is resolved once; whoever connects uses the addresses returned here and never the name
again, so that a name that changes its answer (DNS rebinding) gains nothing.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""Host and port to address texts; raises OSError."""

_NOT_PUBLIC_V4 = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # a public number, but always the host of an Azure machine
    )
)  # fmt: skip
_PUBLIC_V6 = ip_network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    ip_network(block)
    for block in (
        "2001::/23",  # Teredo, ORCHID, benchmarking: none is a web server
        "2001:db8::/32", "2002::/16", "3fff::/20",  # documentation, 6to4, documentation
    )
)  # fmt: skip
"""IANA's special-purpose registries. An IPv4 address inside an IPv6 one (mapped, compatible,
NAT64, 6to4, Teredo) lies outside 2000::/3 or in a block above: refused, whatever it embeds."""


def is_public(address: Address) -> bool:
    """Whether `address` is an ordinary one of the internet."""
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _NOT_PUBLIC_V4)
    if address.scope_id is not None or address not in _PUBLIC_V6:
        return False
    return not any(address in block for block in _NOT_PUBLIC_V6)


def system_resolve(host: str, port: int) -> list[str]:
    """What this machine's resolver answers, in its order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def addresses_of(host: str, port: int, timeout: float, resolve: Resolve) -> list[Address]:
    """The addresses of `host` (a name or an address), asking `resolve` at most once.

    Raises TimeoutError after `timeout` seconds, and OSError if there are none.
    """
    try:
        return [ip_address(host)]
    except ValueError:
        pass
    answers: list[Sequence[str] | BaseException] = []

    def ask() -> None:
        try:
            answers.append(resolve(host, port))
        except (OSError, UnicodeError) as error:
            answers.append(error)

    # getaddrinfo takes no timeout: a thread that hangs in it is left behind.
    thread = threading.Thread(target=ask, name="lightfill-resolve", daemon=True)
    thread.start()
    thread.join(timeout)
    if not answers:
        raise TimeoutError(f"{host} did not resolve in time")
    if isinstance(answers[0], BaseException):
        raise OSError(f"{host} does not resolve") from answers[0]
    if not answers[0]:
        raise OSError(f"{host} has no address")
    return [ip_address(text) for text in answers[0]]
