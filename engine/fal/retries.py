"""Which calls are made again, and when: fal_client's table (fal protocol, section 9)."""

import random
import time
from collections.abc import Callable, Iterator

from .client_errors import FalClientConnectionError
from .reply import Reply

ATTEMPTS, FIRST_DELAY_S, LONGEST_DELAY_S = 10, 0.1, 30.0
"""A full queue is asked again for about 51 s."""
_STATUSES = (408, 409, 429)
_GATEWAY_STATUSES = (502, 503, 504)


def may_pass(reply: Reply) -> bool:
    """Whether the reply is one of those that another attempt may change."""
    if reply.status_code in _STATUSES:
        return True
    is_gateway_s = "x-fal-request-id" not in reply.headers and "nginx" in reply.text
    return reply.status_code in _GATEWAY_STATUSES and is_gateway_s


def delays() -> Iterator[float]:
    """The seconds before each further attempt."""
    for attempt in range(ATTEMPTS - 1):
        delay = min(FIRST_DELAY_S * 2**attempt, LONGEST_DELAY_S)
        yield min(delay * random.uniform(0.5, 1.5), LONGEST_DELAY_S)  # noqa: S311


def repeated(ask: Callable[[], Reply]) -> Reply:
    """The reply to `ask`, made again in this thread as the table says."""
    for delay in delays():
        try:
            reply = ask()
        except FalClientConnectionError as error:
            if not error.may_pass:
                raise
        else:
            if not may_pass(reply):
                return reply
        time.sleep(delay)
    return ask()
