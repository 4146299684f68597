"""Wakes threads of this process that wait for a job, or for work; other processes are polled."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

WORK = ""
"""The key workers watch; no request id is empty."""


def cancellation(request_id: str) -> str:
    """The key the worker of a job watches: logs, which it writes itself, do not wake it."""
    return f"{request_id} cancellation"


class Changes:
    """Events by key. An announcement nobody watches for is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: dict[str, set[threading.Event]] = {}

    @contextmanager
    def watch(self, key: str) -> Iterator[threading.Event]:
        """An event that is set by every `announce(key)` from here on."""
        changed = threading.Event()
        with self._lock:
            self._watchers.setdefault(key, set()).add(changed)
        try:
            yield changed
        finally:
            with self._lock:
                self._watchers[key].discard(changed)
                if not self._watchers[key]:
                    del self._watchers[key]

    def announce(self, *keys: str) -> None:
        """Wake everyone who watches one of `keys`."""
        with self._lock:
            for key in keys:
                for changed in self._watchers.get(key, ()):
                    changed.set()
