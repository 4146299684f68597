"""Durable jobs: submitted by any process, run by the workers of any process, one result each.

The states and rules are fal's (fal protocol, section 5). claims.py is the workers' side,
transitions.py what may become of a job, database.py what survives what.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack

from sqlalchemy import Connection, Row, update

from ..errors import InvalidInput, QueueFull, StillInProgress
from . import positions, rows, transitions
from .changes import WORK, cancellation
from .claims import Claims
from .database import Clock, Database
from .job import Claim, JobResult, JobStatus, Priority, encoded_arguments, is_storable
from .jobs_table import COMPLETED, IN_PROGRESS, IN_QUEUE, PRIORITIES, is_waiting, jobs
from .observer import JobObserver
from .positions import Load
from .transitions import Settled

__all__ = ["Claim", "JobQueue", "JobResult", "JobStatus"]

T = TypeVar("T")
_POLL_S = (0.02, 0.25)
"""How often a change made by another process is looked for: at first, and later."""


class Options(TypedDict, total=False):
    """The keywords of `JobQueue.place`."""

    path: str
    priority: Priority
    start_timeout: float | None
    owner: str | None
    webhook_url: str | None
    max_length: int | None
    request_id: str | None


class JobQueue(Claims):
    """Jobs in one database. Every method may be called from any thread; processes share the jobs.

    Every method may also raise DatabaseUnavailable (503). `owner`: when given, a job of another
    owner does not exist (JobNotFound); None sees every job.
    """

    def __init__(self, database: Database, *, max_length: int | None, **limits: Any) -> None:
        super().__init__(database, **limits)
        self._max_length = max_length

    @classmethod
    def open(
        cls,
        url: str,
        *,
        max_length: int | None,
        retention_s: float,
        lease_s: float,
        max_losses: int = 10,
        clock: Clock | None = None,
        observer: JobObserver | None = None,
    ) -> Self:
        """Open the database at `url` (SQLAlchemy's form) and make its tables if they are missing.

        max_length: requests that may wait. retention_s: how long a completed job is kept.
        lease_s: a worker silent for so long is dead. max_losses: so many workers may die over a
        job before it fails. clock: seconds since 1970, in place of the database's. observer: told
        what becomes of jobs by this object's doing.
        """
        return cls(
            Database(url, clock),
            max_length=max_length,
            retention_s=retention_s,
            lease_s=lease_s,
            max_losses=max_losses,
            observer=observer,
        )

    def close(self) -> None:
        """Close the connections; jobs and their claims stay as they are."""
        self._database.close()

    def submit(
        self, application: str, arguments: Mapping[str, Any], **options: Unpack[Options]
    ) -> str:
        """As `place`, but returns the job's id."""
        return self.place(application, arguments, **options).request_id

    def place(
        self,
        application: str,
        arguments: Mapping[str, Any],
        *,
        path: str = "",
        priority: Priority = "normal",
        start_timeout: float | None = None,
        owner: str | None = None,
        webhook_url: str | None = None,
        max_length: int | None = None,
        request_id: str | None = None,
    ) -> JobStatus:
        """Store a job and return how it waits; it is on the disk then.

        request_id: a uuid4 unless given. start_timeout: seconds; a job no worker has begun by then
        fails with 504. max_length: refuse when more requests than this wait
        (`fal_max_queue_length`). Raises QueueFull and InvalidInput.
        """
        now = self._database.now()
        values = {
            "request_id": request_id or str(uuid.uuid4()),
            "application": application,
            "path": path,
            "owner": owner,
            "webhook_url": webhook_url,
            "priority": _rank(priority),
            "state": IN_QUEUE,
            "submitted_at": now,
            "start_deadline": None if start_timeout is None else now + _checked(start_timeout),
        }
        _check_text(application=application, path=path, owner=owner, webhook_url=webhook_url,
                    request_id=request_id)  # fmt: skip
        content = encoded_arguments(arguments)
        room = self._room(max_length)
        settled: list[Settled] = []

        def operation(connection: Connection) -> JobStatus | None:
            settled.clear()  # what a transaction left here that was rolled back
            if room is not None and not self._has_room(connection, room, now, settled):
                return None
            return rows.store(connection, values, content)

        placed = self._database.write(operation)
        self._tell(settled)
        if placed is None:
            raise QueueFull("as many requests as may already wait; come back later")
        self.changes.announce(WORK)
        return placed

    def status(
        self, request_id: str, *, with_logs: bool = False, owner: str | None = None
    ) -> JobStatus:
        """The job as it is now; raises JobNotFound."""
        while (found := self.glance(request_id, with_logs=with_logs, owner=owner)) is None:
            self._settle(request_id)
        return found

    def glance(
        self, request_id: str, *, with_logs: bool = False, owner: str | None = None
    ) -> JobStatus | None:
        """As `status`, without ever writing: None if the job is overdue for another state."""
        return self._seen(
            request_id, owner, lambda connection, row: rows.status_of(connection, row, with_logs)
        )

    def result(self, request_id: str, *, owner: str | None = None) -> JobResult:
        """The completed job's answer; raises JobNotFound and StillInProgress."""

        def answer(connection: Connection, row: Row[Any]) -> JobResult:
            if row.state != COMPLETED:
                raise StillInProgress("Request is still in progress")  # fal's words (section 5.3)
            return rows.result_of(connection, row)

        while (found := self._seen(request_id, owner, answer)) is None:
            self._settle(request_id)
        return found

    def cancel(
        self, request_id: str, *, owner: str | None = None
    ) -> Literal["CANCELLATION_REQUESTED", "ALREADY_COMPLETED"]:
        """A waiting job is never run; a running one is told, and may still complete.

        Raises JobNotFound.
        """
        self.status(request_id, owner=owner)  # settles what is overdue
        now = self._database.now()
        cancelled = transitions.CANCELLED_BY_CLIENT

        def operation(connection: Connection) -> str:
            row = rows.find(connection, request_id, owner, lock=True)
            if row.state == IN_QUEUE:
                transitions.fail(connection, is_waiting, row.sequence, now, cancelled)
            elif row.state == IN_PROGRESS and not row.cancel_requested:
                told = {"cancel_requested": True, "version": jobs.c.version + 1}
                this = jobs.c.sequence == row.sequence
                connection.execute(update(jobs).where(this).values(told))
            return str(row.state)

        state = self._database.write(operation)  # as the cancel found it
        if state == COMPLETED:
            return "ALREADY_COMPLETED"
        if state == IN_QUEUE:
            self._tell([Settled(request_id, cancelled)])
        else:
            self.changes.announce(request_id, cancellation(request_id))
        return "CANCELLATION_REQUESTED"

    def wait(self, request_id: str, timeout: float, *, since: JobStatus | None = None) -> None:
        """Return when the job's state or logs differ from `since`, or after `timeout` seconds.

        since: a status seen before, so that nothing is missed in between; None: as it is now. A
        completed job changes no more: returns at once. Raises JobNotFound.
        """
        give_up = time.monotonic() + timeout
        pause, longest = _POLL_S
        with self.changes.watch(request_id) as changed:
            seen = since or self.status(request_id)
            while seen.state != COMPLETED and self.status(request_id).version == seen.version:
                left = give_up - time.monotonic()
                if left <= 0:
                    return
                changed.wait(min(pause, left))
                changed.clear()
                pause = min(pause * 2, longest)

    def length(self) -> int:
        """How many jobs wait."""
        return self._database.read(positions.length)

    def load(self) -> Load:
        """How much there is to do, at one moment."""
        return self._database.read(positions.load)

    def _room(self, max_length: int | None) -> int | None:
        """Of the two limits the lower: ours on what waits afterwards, fal's on what waits before.

        fal refuses "when more than n requests wait" (section 5.6).
        """
        limits = (self._max_length, None if max_length is None else max_length + 1)
        return min((limit for limit in limits if limit is not None), default=None)

    def _has_room(
        self, connection: Connection, room: int, now: float, settled: list[Settled]
    ) -> bool:
        """Whether fewer than `room` wait; those past their start deadline, which go to `settled`,
        do not count.

        In PostgreSQL submits in flight on other connections are not counted yet: the bound may
        be passed by as many.
        """
        if positions.length(connection) < room:
            return True
        settled += transitions.settle(connection, now, self._max_losses)
        return positions.length(connection) < room

    def _seen(
        self, request_id: str, owner: str | None, what: Callable[[Connection, Row[Any]], T]
    ) -> T | None:
        """What of the job's row, at one moment; None if it is overdue for another state."""
        now = self._database.now()

        def operation(connection: Connection) -> T | None:
            row = rows.find(connection, request_id, owner)
            return None if rows.is_overdue(row, now) else what(connection, row)

        return self._database.read(operation)

    def _settle(self, request_id: str) -> None:
        now = self._database.now()
        settled = self._database.write_lightly(
            lambda connection: transitions.settle(connection, now, self._max_losses, request_id)
        )
        self._tell(settled)


def _rank(priority: str) -> int:
    if priority not in PRIORITIES:
        raise InvalidInput("priority", f"is {priority!r}; write 'normal' or 'low'")
    return PRIORITIES[priority]


def _checked(start_timeout: float) -> float:
    if not (isfinite(start_timeout) and start_timeout > 0):
        raise InvalidInput("start_timeout", f"is {start_timeout}; give seconds, more than 0")
    return start_timeout


def _check_text(**values: str | None) -> None:
    for name, text in values.items():
        if text is not None and not is_storable(text):
            raise InvalidInput(name, f"{text[:100]!r} is no text a database holds; correct it")
