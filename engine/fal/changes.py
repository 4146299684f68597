"""Wakes threads of this process that wait for a job, or for work; other processes are polled."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WORK = ""
"""The key workers watch; no request id is empty."""
WEBHOOKS = " webhooks"
"""The key those watch who deliver webhooks: a job with one may have been completed."""


def cancellation(request_id: str) -> str:
    """The key the worker of a job watches: logs, which it writes itself, do not wake it."""
    return f"{request_id} cancellation"


class Changes:
    """Announcements by key. One that nobody listens for is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[str, set[Callable[[], object]]] = {}

    @contextmanager
    def listen(self, key: str, told: Callable[[], object]) -> Iterator[None]:
        """Call `told`, which must not block, in the thread of every `announce(key)` from now on."""
        with self._lock:
            self._listeners.setdefault(key, set()).add(told)
        try:
            yield
        finally:
            with self._lock:
                self._listeners[key].discard(told)
                if not self._listeners[key]:
                    del self._listeners[key]

    @contextmanager
    def watch(self, key: str) -> Iterator[threading.Event]:
        """An event that is set by every `announce(key)` from here on."""
        changed = threading.Event()
        with self.listen(key, changed.set):
            yield changed

    def announce(self, *keys: str) -> None:
        """Wake everyone who listens to one of `keys`."""
        with self._lock:
            for key in keys:
                for told in self._listeners.get(key, ()):
                    told()
