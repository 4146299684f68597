"""No SQLite connection crosses a fork: transactions end first, and idle connections are closed.

SQLite keeps what a process has locked in that process's memory. A child forked in the middle of a
transaction believes for ever that it is open, and finds its own database locked; one that inherits
an idle connection believes it holds locks that only its parent holds ("How To Corrupt An SQLite
Database File": never open a connection and then fork).
"""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

_PATIENCE_S = 30.0
"""How long a fork waits for open transactions: as long as a write waits for another process's."""


class ForkGate:
    """Whoever uses a connection is inside; a fork waits until nobody is, and holds off the next."""

    def __init__(self) -> None:
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._reopen()

    def guard(self, engine: Engine) -> None:
        """Close this engine's idle connections before each fork; later uses open new ones."""
        with self._changed:
            self._engines.add(engine)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Around each use of a connection; may be nested. Waits while this process forks."""
        depth: int = getattr(self._own, "depth", 0)
        with self._changed:
            self._changed.wait_for(lambda: depth > 0 or not self._forking)
            self._inside += 1
        self._own.depth = depth + 1
        try:
            yield
        finally:
            self._own.depth = depth
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait for other threads' transactions (this thread's own cannot end), then close."""
        own: int = getattr(self._own, "depth", 0)
        with self._changed:
            self._forking += 1
            self._changed.wait_for(lambda: self._inside <= own, _PATIENCE_S)
            engines = list(self._engines)
        if self._inside <= own:
            for engine in engines:
                engine.dispose()

    def after_in_parent(self) -> None:
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()

    def after_in_child(self) -> None:
        """Other threads are gone, and what they held with them."""
        self._engines = weakref.WeakSet()
        self._reopen()

    def _reopen(self) -> None:
        self._changed = threading.Condition()
        self._own = threading.local()
        self._inside = 0
        self._forking = 0


gate = ForkGate()
os.register_at_fork(
    before=gate.before_fork,
    after_in_parent=gate.after_in_parent,
    after_in_child=gate.after_in_child,
)
