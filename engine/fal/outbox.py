"""The outbox: webhooks that completed jobs owe, handed to one server at a time.

A webhook is in the database from the transaction that completed its job until it is delivered or
given up, and goes with its job. A server that dies over one loses its lease: another sends it
again, so a receiver may be told twice, but is told.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, select, update

from .database import Database
from .jobs_table import (
    DELIVERED,
    GIVEN_UP,
    PENDING,
    is_undelivered,
    jobs,
    results,
    webhooks,
)
from .transitions import write_log


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A webhook in the hands of one server, until its lease runs out.

    receiver: the host and port of `url`. status_code, result: the job's answer, as JSON text.
    payload_error: why that is not the output. failures: attempts that came to nothing.
    number: counts the claims; a server whose number is no longer the last has lost it.
    """

    request_id: str
    owner: str | None
    url: str
    receiver: str
    status_code: int
    result: str
    payload_error: str | None
    failures: int
    sequence: int
    number: int


class Outbox:
    """The webhooks of one job database. Thread-safe; every method may raise DatabaseUnavailable.

    Writes are light (`Database.write_lightly`): a power cut may bring a delivery back.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, lease_s: float, busy: Collection[str] = ()) -> Delivery | None:
        """Take the webhook that is due for longest, to none of the receivers `busy`; None if none.

        It is this caller's for `lease_s` seconds.
        """
        now = self._database.now()
        due = _due(now, busy)
        if self._database.read(lambda connection: connection.scalar(due)) is None:
            return None  # servers poll: they must not take the write lock for nothing

        def operation(connection: Connection) -> Delivery | None:
            first = due.with_for_update(skip_locked=True).scalar_subquery()
            claimed = connection.execute(
                update(webhooks)
                .where(webhooks.c.sequence == first)
                .values(claims=webhooks.c.claims + 1, due_at=now + lease_s)
                .returning(*webhooks.c)
            ).one_or_none()
            return None if claimed is None else _delivery(connection, claimed)

        return self._database.write_lightly(operation)

    def delivered(self, delivery: Delivery) -> bool:
        """It has arrived. False, and nothing changed: the claim was lost (so in all below)."""
        return self._end(delivery, state=DELIVERED)

    def retry(self, delivery: Delivery, reason: str, after_s: float) -> bool:
        """This attempt failed; the next is due in `after_s` seconds."""
        return self._end(
            delivery, state=PENDING, due_at=self._database.now() + after_s, reason=reason,
            failures=delivery.failures + 1,
        )  # fmt: skip

    def give_up(self, delivery: Delivery, reason: str) -> bool:
        """It is not tried again; the job's log says why."""
        return self._end(
            delivery, f"webhook given up: {reason}",
            state=GIVEN_UP, reason=reason, failures=delivery.failures + 1,
        )  # fmt: skip

    def _end(self, delivery: Delivery, log: str | None = None, **values: Any) -> bool:
        now = self._database.now()
        held = (webhooks.c.sequence == delivery.sequence) & (webhooks.c.claims == delivery.number)

        def operation(connection: Connection) -> bool:
            changed = update(webhooks).where(held, is_undelivered).values(values)
            if connection.execute(changed).rowcount != 1:
                return False
            if log is not None:
                write_log(connection, delivery.sequence, now, log, "WARN", {})
            return True

        return self._database.write_lightly(operation)


def _due(now: float, busy: Collection[str]) -> Select[tuple[int]]:
    due = select(webhooks.c.sequence).where(is_undelivered, webhooks.c.due_at <= now)
    if busy:
        due = due.where(webhooks.c.receiver.not_in(busy))
    return due.order_by(webhooks.c.due_at).limit(1)


def _delivery(connection: Connection, claimed: Any) -> Delivery:
    told = connection.execute(
        select(
            jobs.c.request_id, jobs.c.owner, jobs.c.webhook_url, jobs.c.status_code,
            results.c.content,
        )
        .join(results, results.c.sequence == jobs.c.sequence)
        .where(jobs.c.sequence == claimed.sequence)
    ).one()  # fmt: skip
    return Delivery(
        request_id=told.request_id,
        owner=told.owner,
        url=told.webhook_url,
        receiver=claimed.receiver,
        status_code=told.status_code,
        result=told.content,
        payload_error=claimed.payload_error,
        failures=claimed.failures,
        sequence=claimed.sequence,
        number=claimed.claims,
    )
