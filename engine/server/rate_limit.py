"""How many requests a minute one caller may send."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from math import ceil

from ..errors import RateLimited

WINDOW_S = 60.0
_MAX_CALLERS = 10_000


class RateLimit:
    """At most `limit` requests of each caller in any 60 s; None lets all through. Thread-safe.

    What it holds is bounded: the times of `limit` requests for each of the 10,000 latest callers.
    """

    def __init__(self, limit: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, caller: str) -> None:
        """Count one request; raises RateLimited, which does not count, if it is one too many."""
        if self._limit is None:
            return
        now = self._clock()
        with self._lock:
            times = self._times.setdefault(caller, deque())
            self._times.move_to_end(caller)
            self._forget(now)
            while times and times[0] <= now - WINDOW_S:
                times.popleft()
            if len(times) < self._limit:
                times.append(now)
                return
            wait_s = times[0] + WINDOW_S - now
        raise RateLimited(
            f"more than {self._limit} requests a minute; come back in {ceil(wait_s)} s", wait_s
        )

    def _forget(self, now: float) -> None:
        """Callers who have sent nothing for a minute, and the oldest if there are too many."""
        while len(self._times) > 1:
            caller, times = next(iter(self._times.items()))
            if len(self._times) <= _MAX_CALLERS and times and times[-1] > now - WINDOW_S:
                return
            del self._times[caller]
