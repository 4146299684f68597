"""A small cache bounded by bytes: the least recently used entries go first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A value that knows how much memory it holds."""

    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


class ByteBoundedCache(Generic[Value]):
    """Keeps computed values under content keys, `limit` bytes in all. Thread-safe.

    Two threads that miss the same key at once both compute it; neither waits for the other.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Hashable, Value] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get_or_compute(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value under `key`; a miss computes and keeps it (unless larger than the limit)."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        value = compute()
        with self._lock:
            self._store(key, value)
        return value

    @property
    def nbytes(self) -> int:
        """Bytes held now; never more than the limit."""
        return self._bytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def _store(self, key: Hashable, value: Value) -> None:
        if key in self._entries or value.nbytes > self._limit:
            return
        self._entries[key] = value
        self._bytes += value.nbytes
        while self._bytes > self._limit:
            _, evicted = self._entries.popitem(last=False)
            self._bytes -= evicted.nbytes
