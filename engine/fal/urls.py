"""A caller's URL, read strictly: what is checked is exactly what is connected to and sent."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, urljoin, urlsplit

from ..errors import FileDownloadError

MAX_LENGTH = 8192
_PORTS = {"http": 80, "https": 443}
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\\\ud800-\udfff]")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)")
_KEPT = "%/?:@!$&'()*+,;=~-._[]|"


@dataclass(frozen=True)
class Url:
    """A parsed http(s) URL: `host` is ASCII (IPv6 without brackets), `target` goes on the wire."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host header: brackets around IPv6, the port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


class UrlRefused(ValueError):
    """What is wrong with a URL, said so that "the URL" comes before it."""


def parse_url(text: str, field: str) -> Url:
    """`read_url`, whose refusal is a FileDownloadError that names `field`."""
    try:
        return read_url(text)
    except UrlRefused as refused:
        raise _not_fetched(field, str(refused)) from refused


def read_url(text: str) -> Url:
    """`text` as a Url; raises UrlRefused for all that is not plain http(s).

    Refused: other schemes, user names and passwords, control characters and backslashes (parsers
    differ on them), numeric hosts that are not four decimal numbers, zones, malformed names.
    """
    if len(text) > MAX_LENGTH:
        raise UrlRefused(f"is longer than {MAX_LENGTH} characters")
    text = text.strip(" ").replace(" ", "%20")
    if _UNPRINTABLE.search(text):
        raise UrlRefused("holds control characters or backslashes")
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise UrlRefused(f"cannot be read ({error})") from error
    scheme = parts.scheme.lower()
    if scheme not in _PORTS:
        raise UrlRefused(f"has the scheme {scheme[:20]!r}, which is neither http nor https")
    if "@" in parts.netloc:
        raise UrlRefused("holds a user name")
    if not host or port == 0:
        raise UrlRefused("names no host and port")
    path, query = quote(parts.path or "/", _KEPT), quote(parts.query, _KEPT)
    target = f"{path}?{query}" if query else path
    checked = _host(host, bracketed="[" in parts.netloc)
    return Url(scheme, checked, port or _PORTS[scheme], target)


def redirected(url: Url, location: str, field: str) -> Url:
    """Where a redirect from `url` leads, under the same rules."""
    try:
        joined = urljoin(str(url), location)
    except ValueError as error:
        raise _not_fetched(field, f"redirects to one that cannot be read ({error})") from error
    return parse_url(joined, field)


def _host(host: str, *, bracketed: bool) -> str:
    """An address in its one spelling, or a name in ASCII (IDNA)."""
    try:
        if bracketed:
            return _without_zone(IPv6Address(host))
        # A name ends at 253 characters; the codec takes time with the square of the length.
        name = host[:1000].encode("idna").decode("ascii").lower().removesuffix(".")
        return str(IPv4Address(name)) if _NUMBER.fullmatch(name) else _checked_name(name)
    except ValueError as error:  # UnicodeError is one
        reason = f"names the host {host[:100]!r}, which is neither a domain name nor an address"
        raise UrlRefused(reason) from error


def _without_zone(address: IPv6Address) -> str:
    if address.scope_id is not None:
        raise ValueError(str(address))
    return str(address)


def _checked_name(name: str) -> str:
    if len(name) > 253 or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError(name)
    return name


def _not_fetched(field: str, reason: str) -> FileDownloadError:
    return FileDownloadError(field, f"the URL {reason}; pass a plain http(s) URL or a data URI")
