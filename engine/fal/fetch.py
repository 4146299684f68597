"""Fetching a caller's URL: bounded in bytes, seconds and redirects, public addresses only.

fal's own limits are 50 MiB, 30 s and 5 redirects (fal protocol, section 7).
"""

import io
import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence

from ..errors import FileDownloadError, LightfillError
from .addresses import Resolve, system_resolve
from .limits import limited, too_large
from .settings import Settings
from .urls import Url, parse_url, redirected

try:
    import httpcore2

    from .guarded_network import AddressRefused, Budget, Guard, TooMuchData
except ImportError as missing:
    raise LightfillError(
        f"fetching URLs needs httpcore2 ({missing}); `pip install 'lightfill[fal]'`"
    ) from missing

logger = logging.getLogger(__name__)

_REDIRECTS = (301, 302, 303, 307, 308)
_OVERHEAD = 1 << 20
"""Bytes a response's headers and chunk marks may take beyond its body."""
_PIECE = 1 << 18
_FAILURES = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ConnectionNotAvailable,
)


class Fetcher:
    """Fetches URLs within the limits of `settings`. Thread-safe; keeps no connection or cookie."""

    def __init__(self, settings: Settings, resolve: Resolve = system_resolve) -> None:
        self._limit = settings.max_download_bytes
        self._timeout = settings.download_timeout_s
        self._max_redirects = settings.max_redirects
        self._guard = Guard(resolve, settings.allow_private_addresses)

    def fetch(self, text: str, field: str) -> bytes:
        """The body of the http(s) URL `text`; FileDownloadError or FileTooLarge names `field`."""
        budget = Budget(self._timeout, self._limit + _OVERHEAD)
        url = parse_url(text, field)
        for _ in range(self._max_redirects + 1):
            answer = self._ask(url, budget, field)
            if isinstance(answer, bytes):
                return answer
            url = answer
        reason = f"redirects more than {self._max_redirects} times; pass the final URL"
        raise FileDownloadError(field, f"the URL {reason}")

    def _ask(self, url: Url, budget: Budget, field: str) -> bytes | Url:
        """One request: the body, or the URL it redirects to."""
        try:
            return self._exchange(url, budget, field)
        except AddressRefused:
            reason = f"{url.host} is not on the public internet"
            advice = "pass a public URL, or upload the file"
        except TooMuchData:
            raise too_large(field, self._limit) from None
        except httpcore2.TimeoutException:
            reason = f"{url.host} took more than {self._timeout:g} s"
            advice = "pass a faster URL, or upload the file"
        except _FAILURES as error:
            logger.info("fetching from %s failed: %r", url.host, error)
            reason = f"{url.host} cannot be read ({str(error)[:200]})"
            advice = "check the URL"
        raise FileDownloadError(field, f"{reason}; {advice}")

    def _exchange(self, url: Url, budget: Budget, field: str) -> bytes | Url:
        with self._guard.exchange("GET", url, budget, headers=()) as response:
            if response.status in _REDIRECTS:
                location = _header(response.headers, b"location")
                if location:
                    return redirected(url, location, field)
            if response.status != 200:
                reason = f"{url.host} answered with status {response.status}"
                raise FileDownloadError(field, f"{reason}; check the URL")
            declared = _header(response.headers, b"content-length")
            if declared.isdecimal() and int(declared[:20]) > self._limit:
                raise too_large(field, self._limit)
            encoding = _header(response.headers, b"content-encoding").strip().lower()
            return self._body(_decoded(response.iter_stream(), encoding, field), url, field)

    def _body(self, chunks: Iterable[bytes], url: Url, field: str) -> bytes:
        buffer = io.BytesIO()  # hands its bytes out without copying them
        buffer.writelines(limited(chunks, self._limit, field))
        if not buffer.tell():
            raise FileDownloadError(field, f"{url.host} sent an empty file; check the URL")
        return buffer.getvalue()


def _decoded(chunks: Iterable[bytes], encoding: str, field: str) -> Iterator[bytes]:
    """The body in pieces of at most 256 KiB when compressed: servers compress unasked."""
    if encoding in ("", "identity"):
        yield from chunks
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        reason = f"the server sent the encoding {encoding[:50]!r}"
        raise FileDownloadError(field, f"{reason}; pass a URL that is served uncompressed")
    inflate = zlib.decompressobj(wbits=47)  # gzip or zlib, as the data says
    try:
        for chunk in chunks:
            pending = chunk
            full = True
            while (pending or full) and not inflate.eof:
                piece = inflate.decompress(pending, _PIECE)
                pending, full = inflate.unconsumed_tail, len(piece) == _PIECE
                yield piece
    except zlib.error as error:
        raise FileDownloadError(field, f"{error}; check the URL") from error
    if not inflate.eof:
        raise FileDownloadError(field, "the compressed file ends too early; check the URL")


def _header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str:
    """The header's values, joined by commas as HTTP says; "" without one."""
    values = [value for key, value in headers if key.lower() == name]
    try:
        return b",".join(values).decode("utf-8")
    except UnicodeDecodeError:
        return b",".join(values).decode("latin-1")
