"""A caller's arguments as an order, checked as fal_client checks them."""

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from .transport import HINT_HEADER, PRIORITY_HEADER, TIMEOUT_HEADER, Order

Priority = Literal["normal", "low"]
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def make_order(
    application: str,
    arguments: Mapping[str, Any],
    *,
    path: str = "",
    headers: Mapping[str, str] = NO_HEADERS,
    hint: str | None = None,
    priority: str | None = None,
    start_timeout: float | None = None,
    webhook_url: str | None = None,
) -> Order:
    """The order these arguments stand for: X-Fal-* headers, as fal_client writes them.

    Raises ValueError as fal_client does: for a start timeout of a second or less, and for a
    priority that is neither "normal" nor "low".
    """
    found = {name.lower(): value for name, value in headers.items()}
    if hint is not None:
        found[HINT_HEADER] = hint
    if priority is not None:
        if priority not in {"normal", "low"}:
            raise ValueError(f"Priority must be one of ('normal', 'low'), got '{priority}'")
        found[PRIORITY_HEADER] = priority
    if start_timeout is not None:
        if not float(start_timeout) > 1:
            raise ValueError("Timeout must be greater than 1 seconds")
        found[TIMEOUT_HEADER] = str(float(start_timeout))
    return Order(
        application=application,
        arguments=arguments,
        path=path,
        headers=found,
        webhook_url=webhook_url or None,  # as fal_client, which sends no empty one
    )


def sent_by(method: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `run` sends with that HTTP method: a GET has no body."""
    return {} if method.upper() == "GET" else arguments


def start_timeout_within(start: float | None, client: float | None) -> float | None:
    """`subscribe`'s start timeout: the client's where none is given (fal protocol, section 3)."""
    if start is not None and client is not None and start > client:
        warnings.warn(
            f"start_timeout ({start}s) is larger than client_timeout ({client}s). The request "
            "may timeout on the client before the server-side timeout is reached.",
            UserWarning,
            stacklevel=3,
        )
    return client if start is None else start
