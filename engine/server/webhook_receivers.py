"""How many webhooks are on their way, in all and to each receiver."""

import threading
from collections import Counter


class Receivers:
    """Places for webhooks on their way. Thread-safe.

    A receiver that is slow fills its own places and no other's.
    """

    def __init__(self, places: int, places_each: int) -> None:
        self._places = places
        self._places_each = places_each
        self._taken: Counter[str] = Counter()
        self._left = threading.Condition()

    def is_full(self) -> bool:
        """Whether there is no place for anybody."""
        with self._left:
            return self._taken.total() >= self._places

    def busy(self) -> set[str]:
        """Those that have all the places they may."""
        with self._left:
            return {name for name, taken in self._taken.items() if taken >= self._places_each}

    def enter(self, receiver: str) -> None:
        """Take a place."""
        with self._left:
            self._taken[receiver] += 1

    def leave(self, receiver: str) -> None:
        """Give it back."""
        with self._left:
            self._taken[receiver] -= 1
            self._taken = +self._taken  # without those that have none
            self._left.notify_all()

    def wait_empty(self, timeout_s: float) -> bool:
        """Return when nothing is on its way any more; False after `timeout_s` seconds."""
        with self._left:
            return self._left.wait_for(lambda: not self._taken, timeout_s)
