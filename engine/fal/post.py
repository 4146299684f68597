"""Sending to a caller's URL: the rules are those of fetching, but redirects are not followed.

A name is resolved once and the connection goes to the address that was checked, so a name that
changes its answer gains nothing; a redirect would lead to what nobody checked.
"""

from collections.abc import Sequence

import httpcore2

from .addresses import Resolve, system_resolve
from .guarded_network import AddressRefused, Budget, Guard, TooMuchData
from .urls import UrlRefused, read_url

_MAX_ANSWER_BYTES = 1 << 16
"""Headers and the body's beginning; the rest of an answer is nobody's business."""
_MAX_BODY_BYTES = 1 << 12


class NotPosted(Exception):
    """The receiver did not accept the request; the message says why.

    hopeless: whether it would be refused for the same reason the next time.
    """

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


class Poster:
    """Posts to callers' URLs. Thread-safe; keeps no connection or cookie.

    timeout_s: for all of one request, resolving and connecting included. allow_private: whether
    private addresses may be reached.
    """

    def __init__(
        self, *, timeout_s: float, allow_private: bool, resolve: Resolve = system_resolve
    ) -> None:
        self._timeout_s = timeout_s
        self._guard = Guard(resolve, allow_private)

    def post(self, text: str, content: bytes, headers: Sequence[tuple[str, str]]) -> None:
        """Return once the receiver has answered with 2xx; raises NotPosted otherwise."""
        try:
            url = read_url(text)
        except UrlRefused as refused:
            raise NotPosted(f"the URL {refused}", hopeless=True) from refused
        budget = Budget(self._timeout_s, _MAX_ANSWER_BYTES)
        encoded = [(name.encode("ascii"), value.encode()) for name, value in headers]
        try:
            with self._guard.exchange("POST", url, budget, encoded, content) as response:
                status = response.status
                _hear_out(response)
        except AddressRefused:
            raise NotPosted(f"{url.host} is not on the public internet", hopeless=True) from None
        except TooMuchData:
            raise NotPosted(f"{url.host} sent endless headers") from None
        except httpcore2.TimeoutException:
            raise NotPosted(f"{url.host} took more than {self._timeout_s:g} s") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise NotPosted(f"{url.host} cannot be reached ({str(error)[:200]})") from error
        if 300 <= status < 400:
            raise NotPosted(f"{url.host} answered with status {status}; redirects are not followed")
        if not 200 <= status < 300:
            raise NotPosted(f"{url.host} answered with status {status}")


def _hear_out(response: httpcore2.Response) -> None:
    """Read a short answer to its end: a receiver whose caller hangs up may stop in the middle."""
    read = 0
    try:
        for piece in response.iter_stream():
            read += len(piece)
            if read > _MAX_BODY_BYTES:
                return
    except (
        TooMuchData,
        httpcore2.TimeoutException,
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
    ):
        return  # the status has been said
