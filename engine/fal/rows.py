"""Rows of the job database as the queue's dataclasses, and back."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, insert, select
from sqlalchemy.exc import IntegrityError

from ..errors import InvalidInput, JobNotFound
from . import positions
from .job import Claim, JobResult, JobStatus, is_storable, log_entry
from .jobs_table import IN_PROGRESS, IN_QUEUE, arguments, jobs, logs, results


def store(connection: Connection, values: Mapping[str, Any], content: str) -> JobStatus:
    """A new job and its arguments; raises InvalidInput if the request id is taken."""
    try:
        sequence = connection.execute(
            insert(jobs).values(values).returning(jobs.c.sequence)
        ).scalar_one()
    except IntegrityError as error:
        raise InvalidInput("request_id", "is another request's; leave it out") from error
    connection.execute(insert(arguments).values(sequence=sequence, content=content))
    return JobStatus(
        request_id=values["request_id"],
        application=values["application"],
        state="IN_QUEUE",
        version=1,
        position=positions.ahead(connection, values["priority"], sequence),
        metrics={},
    )


def find(
    connection: Connection, request_id: str, owner: str | None, *, lock: bool = False
) -> Row[Any]:
    """The job's row; raises JobNotFound. lock: nobody else changes it in this transaction."""
    query = select(jobs).where(jobs.c.request_id == request_id)
    query = query.with_for_update() if lock else query
    row = connection.execute(query).one_or_none() if is_storable(request_id) else None
    if row is None or (owner is not None and row.owner != owner):
        shown = request_id if is_storable(request_id) else repr(request_id)
        raise JobNotFound(f"there is no request {shown}; check the id, it may have expired")
    return row


def is_overdue(row: Row[Any], now: float) -> bool:
    """Whether its start deadline or its lease has passed and `transitions.settle` is due."""
    if row.state == IN_QUEUE:
        return row.start_deadline is not None and row.start_deadline <= now
    return bool(row.state == IN_PROGRESS and row.lease_until <= now)


def status_of(connection: Connection, row: Row[Any], with_logs: bool) -> JobStatus:
    """The status, with the position if the job waits."""
    waiting = row.state == IN_QUEUE
    return JobStatus(
        request_id=row.request_id,
        application=row.application,
        state=row.state,
        version=row.version,
        position=positions.ahead(connection, row.priority, row.sequence) if waiting else None,
        logs=_logs(connection, row.sequence) if with_logs else None,
        metrics=json.loads(row.metrics),
        error=row.error,
        error_type=row.error_type,
    )


def result_of(connection: Connection, row: Row[Any]) -> JobResult:
    """The answer of a completed job."""
    query = select(results.c.content).where(results.c.sequence == row.sequence)
    return JobResult(
        request_id=row.request_id,
        status_code=row.status_code,
        body=json.loads(connection.execute(query).scalar_one()),
        error_type=row.error_type,
    )


def claim_of(connection: Connection, row: Row[Any]) -> Claim:
    """The claim a just claimed job's row is."""
    query = select(arguments.c.content).where(arguments.c.sequence == row.sequence)
    return Claim(
        request_id=row.request_id,
        application=row.application,
        path=row.path,
        arguments=json.loads(connection.execute(query).scalar_one()),
        owner=row.owner,
        webhook_url=row.webhook_url,
        worker=row.worker,
        sequence=row.sequence,
        number=row.claims,
        waited_s=row.started_at - row.submitted_at,
    )


def _logs(connection: Connection, sequence: int) -> list[dict[str, Any]]:
    found = select(logs).where(logs.c.sequence == sequence).order_by(logs.c.number)
    return [
        log_entry(row.timestamp, row.message, row.level, json.loads(row.labels))
        for row in connection.execute(found)
    ]
