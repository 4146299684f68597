"""Group commit: writes of concurrent threads share one transaction, and so one fsync.

SQLite has one writer at a time, and a commit that survives a power cut waits for the disk. Threads
that come meanwhile queue up, and the first of them then writes for all (LevelDB's scheme).
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from ..errors import DatabaseUnavailable

T = TypeVar("T")
Operation = Callable[[Connection], T]
Transaction = Callable[[bool], AbstractContextManager[Connection]]
"""Opens a write transaction that commits at the end; the flag: whether it must reach the disk."""


class _Write:
    """One thread's operation; `woken` is set when it is done or has to lead."""

    def __init__(self, operation: Operation[Any], durable: bool) -> None:
        self.operation = operation
        self.durable = durable
        self.woken = threading.Event()
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None

    def keep(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value, self.error, self.done = value, error, True


class GroupCommit:
    """Runs operations in groups, in the order they came; each sees those before it."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._lock = threading.Lock()
        self._waiting: list[_Write] = []
        self._led = False

    def run(self, operation: Operation[T], *, durable: bool) -> T:
        """What `operation` returned or raised, once its transaction has ended."""
        write = _Write(operation, durable)
        with self._lock:
            self._waiting.append(write)
            leads, self._led = not self._led, True
        try:
            if not leads:
                write.woken.wait()
        except BaseException:  # the main thread, interrupted
            self._withdraw(write)
            raise
        if not write.done:
            self._lead()
        if write.error is not None:
            raise write.error
        return cast(T, write.value)

    def _lead(self) -> None:
        """Write for everyone who is waiting, then hand over to the first who came meanwhile."""
        with self._lock:
            group, self._waiting = self._waiting, []
        try:
            self._write(group)
        finally:
            for write in group:
                if not write.done:  # the leader was interrupted, and raises that in its thread
                    write.keep(error=DatabaseUnavailable("the write was interrupted; repeat it"))
                write.woken.set()
            with self._lock:
                self._hand_over()

    def _hand_over(self) -> None:
        self._led = bool(self._waiting)
        if self._led:
            self._waiting[0].woken.set()

    def _withdraw(self, write: _Write) -> None:
        """Its thread waits no longer: it must neither be written later nor be left to lead."""
        with self._lock:
            if write in self._waiting:
                self._waiting.remove(write)
                if write.woken.is_set():
                    self._hand_over()

    def _write(self, group: Sequence[_Write]) -> None:
        """One transaction for the group; if anything fails in it, one for each."""
        try:
            with self._transaction(any(write.durable for write in group)) as connection:
                values = [write.operation(connection) for write in group]
        except Exception as error:  # noqa: BLE001, raised in the thread it belongs to
            if len(group) > 1 and not isinstance(error, OperationalError):
                for write in group:
                    self._write([write])
            else:  # a locked or full disk is everyone's
                for write in group:
                    write.keep(error=error)
        else:
            for write, value in zip(group, values, strict=True):
                write.keep(value)
