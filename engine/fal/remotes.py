"""The servers this process speaks to: one HTTP client each, kept open between calls.

A forked child opens its own; what it inherited is left untouched, for the parent still uses it.
"""

import atexit
import os
import re
import threading
from typing import TYPE_CHECKING

from ..errors import InvalidInput
from .client_errors import FalClientConnectionError
from .site_url import site_url
from .transport import Remote

if TYPE_CHECKING:
    from .http_transport import HttpTransport

_KEY = re.compile(r"[\x21-\x7e]+")

_lock = threading.Lock()
_open: dict[Remote, "HttpTransport"] = {}
_inherited: list[object] = []


def connected(remote: Remote) -> "HttpTransport":
    """The transport to that server. Nothing is sent yet.

    Raises InvalidInput for a URL or key that can be none, FalClientConnectionError without httpx2.
    """
    key = remote.key or _key_of_environment()
    wanted = Remote(base_url=remote.base_url, key=key, timeout_s=remote.timeout_s)
    with _lock:
        if wanted not in _open:
            _open[wanted] = _opened(wanted)
        return _open[wanted]


def disconnect() -> None:
    """Close every connection; the next call opens new ones."""
    with _lock:
        closing = list(_open.values())
        _open.clear()
    for each in closing:
        each.close()


def _opened(remote: Remote) -> "HttpTransport":
    try:
        base_url = site_url(str(remote.base_url))
    except ValueError as error:
        raise InvalidInput("base_url", f"{error}; write http://127.0.0.1:8765") from error
    if remote.key is not None and not _KEY.fullmatch(remote.key):
        raise InvalidInput("key", "holds characters no key has; pass one of `lightfill keys`")
    try:
        from .http_transport import HttpTransport
    except ModuleNotFoundError as error:
        raise FalClientConnectionError(
            f"a server is spoken to with {error.name}: run `pip install 'lightfill[fal]'`",
            may_pass=False,
        ) from error
    return HttpTransport(base_url, remote.key, remote.timeout_s)


def _key_of_environment() -> str | None:
    """The key as fal_client finds it; None where there is none: a server may ask for none."""
    if key := os.environ.get("FAL_KEY", "").strip():
        return key
    name, secret = os.environ.get("FAL_KEY_ID"), os.environ.get("FAL_KEY_SECRET")
    return f"{name}:{secret}" if name and secret else None


def _start_anew() -> None:
    """In a forked child: its connections are the parent's."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _inherited.extend(_open.values())
    _open.clear()


atexit.register(disconnect)
os.register_at_fork(after_in_child=_start_anew)
