"""The changes of a job's state, each one statement guarded by what it requires.

    IN_QUEUE --claim--> IN_PROGRESS --finish--> COMPLETED
    IN_PROGRESS --give back, or the lease ran out--> IN_QUEUE
    IN_QUEUE --cancel, or the start deadline passed--> COMPLETED
    IN_PROGRESS --the lease ran out after a cancel, or too often--> COMPLETED

All run within the caller's transaction. A job gets its one result in `complete` and nowhere else,
and there its webhook goes into the outbox, whoever completes it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    delete,
    exists,
    insert,
    or_,
    select,
    update,
)

from ..errors import Cancelled, LightfillError, StartTimeout, WorkerLost
from . import webhook_rows
from .job import Claim, as_json, failure, storable
from .jobs_table import (
    COMPLETED,
    IN_PROGRESS,
    IN_QUEUE,
    arguments,
    is_running,
    is_waiting,
    jobs,
    logs,
    results,
)
from .validation import error_body

_AT_ONCE = 100
"""Overdue jobs one call deals with, so that no transaction is long."""
CANCELLED_BY_CLIENT = Cancelled("Request cancelled by the client.")
_TOO_LATE = StartTimeout("No worker was free before the request's start timeout; try again later.")


class Settled(NamedTuple):
    """A job that was overdue. error: how it was completed; None if it waits again."""

    request_id: str
    error: LightfillError | None


def has_work(connection: Connection, now: float) -> bool:
    """Whether a job waits or has to be recovered."""
    waits = select(jobs.c.sequence).where(is_waiting).limit(1)
    lost = select(jobs.c.sequence).where(is_running, jobs.c.lease_until <= now).limit(1)
    return connection.scalar(waits) is not None or connection.scalar(lost) is not None


def claim(connection: Connection, worker: str, now: float, lease_s: float) -> Row[Any] | None:
    """Hand the first waiting job to `worker`: by priority, then by submission."""
    first = (
        select(jobs.c.sequence)
        .where(is_waiting, or_(jobs.c.start_deadline.is_(None), jobs.c.start_deadline > now))
        .order_by(jobs.c.priority, jobs.c.sequence)
        .limit(1)
        .with_for_update(skip_locked=True)  # SQLite has one writer and leaves it out
    )
    claimed = connection.execute(
        update(jobs)
        .where(jobs.c.sequence == first.scalar_subquery())
        .values(
            state=IN_PROGRESS,
            version=jobs.c.version + 1,
            claims=jobs.c.claims + 1,
            worker=worker,
            lease_until=now + lease_s,
            started_at=now,
            start_deadline=None,
        )
        .returning(*jobs.c)
    )
    return claimed.one_or_none()


def held(by: Claim) -> ColumnElement[bool]:
    """Whether the job is still this claim's."""
    return (jobs.c.sequence == by.sequence) & (jobs.c.claims == by.number) & is_running


def complete(
    connection: Connection,
    which: ColumnElement[bool],
    sequence: int,
    now: float,
    status_code: int,
    body: Mapping[str, Any],
    metrics: Mapping[str, float],
    payload_error: str | None = None,
) -> bool:
    """Give job `sequence` its result if it is `which`; False, and nothing changed, if not.

    payload_error: why its output could not be stored, for its webhook.
    """
    error, error_type = failure(status_code, body)
    done = connection.execute(
        update(jobs)
        .where(jobs.c.sequence == sequence, which)
        .values(
            state=COMPLETED,
            version=jobs.c.version + 1,
            lease_until=None,
            completed_at=now,
            status_code=status_code,
            error=None if error is None else storable(error),
            error_type=error_type,
            metrics=as_json(metrics),
        )
        .returning(jobs.c.webhook_url)
    ).one_or_none()
    if done is None:
        return False
    if done.webhook_url is not None:
        webhook_rows.enqueue(connection, sequence, done.webhook_url, now, payload_error)
    connection.execute(insert(results).values(sequence=sequence, content=as_json(body)))
    connection.execute(delete(arguments).where(arguments.c.sequence == sequence))
    return True


def fail(
    connection: Connection,
    which: ColumnElement[bool],
    sequence: int,
    now: float,
    error: LightfillError,
) -> bool:
    """`complete` with the reply fal would send for `error`."""
    return complete(connection, which, sequence, now, *error_body(error), metrics={})


def requeue(connection: Connection, which: ColumnElement[bool], *, losses: int = 0) -> bool:
    """Back to its old place in the queue; False if it is not `which`."""
    done = connection.execute(
        update(jobs)
        .where(which)
        .values(
            state=IN_QUEUE,
            version=jobs.c.version + 1,
            losses=jobs.c.losses + losses,
            worker=None,
            lease_until=None,
            started_at=None,
        )
    )
    return done.rowcount == 1


def write_log(
    connection: Connection,
    sequence: int,
    now: float,
    message: str,
    level: str,
    labels: Mapping[str, str],
) -> None:
    """Append a log line to job `sequence`."""
    connection.execute(
        insert(logs).values(
            sequence=sequence,
            timestamp=now,
            level=level,
            message=storable(message),
            labels=as_json(labels),
        )
    )


def settle(
    connection: Connection, now: float, max_losses: int, only: str | None = None
) -> list[Settled]:
    """Deal with start deadlines and leases that have passed; returns the jobs that changed.

    Whoever looks does this, so that a job's state is right even while no worker is free.
    """
    this = jobs.c.request_id == only if only is not None else None
    late = is_waiting & (jobs.c.start_deadline <= now)
    lost = is_running & (jobs.c.lease_until <= now)
    if not connection.scalar(select(exists().where(late) | exists().where(lost))):
        return []
    changed = [
        Settled(row.request_id, _TOO_LATE)
        for row in _locked(connection, late, jobs.c.start_deadline, this)
        if fail(connection, is_waiting, row.sequence, now, _TOO_LATE)
    ]
    for row in _locked(connection, lost, jobs.c.lease_until, this):
        settled = _recover(connection, row, now, max_losses)
        if settled is not None:
            changed.append(settled)
    return changed


def _locked(
    connection: Connection,
    which: ColumnElement[bool],
    oldest: Column[Any],
    this: ColumnElement[bool] | None,
) -> list[Row[Any]]:
    """Rows nobody else is dealing with. By `oldest`, whose index has no other rows to pass over."""
    found = select(jobs).where(which).order_by(oldest).limit(_AT_ONCE)
    if this is not None:
        found = found.where(this)
    return list(connection.execute(found.with_for_update(skip_locked=True)).all())


def _recover(connection: Connection, row: Row[Any], now: float, max_losses: int) -> Settled | None:
    """A job whose worker fell silent: it runs again, unless nobody wants it or it kills workers."""
    message = f"worker {row.worker} fell silent"
    error: LightfillError | None = None
    if row.cancel_requested:
        error = CANCELLED_BY_CLIENT
    elif row.losses + 1 >= max_losses:
        error = WorkerLost(f"{message}, as {row.losses} before it; look at the workers' logs.")
    if error is not None:
        done = fail(connection, is_running, row.sequence, now, error)
    else:
        write_log(connection, row.sequence, now, f"{message}; the request runs again", "WARN", {})
        done = requeue(connection, (jobs.c.sequence == row.sequence) & is_running, losses=1)
    return Settled(row.request_id, error) if done else None
