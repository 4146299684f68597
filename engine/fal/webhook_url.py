"""A caller's webhook URL, refused at once where sending it would be."""

from ipaddress import ip_address

from ..errors import RequestInvalid
from .addresses import is_public
from .urls import UrlRefused, read_url
from .validation import json_safe

QUERY = "fal_webhook"


def checked_webhook_url(text: str, *, allow_private: bool) -> None:
    """Raise RequestInvalid, naming the query's `fal_webhook`, for what cannot be called.

    Names are not resolved here: what they lead to is checked at every attempt.
    """
    try:
        host = read_url(text).host
    except UrlRefused as refused:
        raise _invalid(text, f"the URL {refused}; pass a plain http(s) URL") from refused
    if not allow_private and _is_private(host):
        reason = f"{host} is not on the public internet; pass a public URL"
        raise _invalid(text, f"{reason}, or serve with --allow-private-addresses")


def _is_private(host: str) -> bool:
    """Whether it needs no resolver to know."""
    try:
        return not is_public(ip_address(host))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _invalid(text: str, message: str) -> RequestInvalid:
    item = {"type": "value_error", "loc": ["query", QUERY], "msg": message,
            "input": json_safe(text)}  # fmt: skip
    return RequestInvalid([item])
