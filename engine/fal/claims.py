"""The workers' side of the queue: claims with leases, heartbeats, logs and the one result."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, select, update

from ..errors import InvalidInput
from . import rows, transitions, webhook_rows
from .changes import WEBHOOKS, WORK, Changes
from .database import Database
from .job import Claim, Level, as_json
from .jobs_table import arguments, is_completed, is_running, jobs, logs, results, webhooks
from .observer import JobObserver
from .transitions import Settled
from .validation import error_body

_SWEPT_AT_ONCE = 500
_UNREADABLE = InvalidInput("arguments", "cannot be read back; nest them less deep")


class Claims:
    """What workers do with the jobs of one database; see `JobQueue`, which adds the callers' side.

    lease_s: a worker silent for so long is dead. max_losses: so many workers may die over a job
    before it fails. retention_s: how long completed jobs are kept. observer: told what becomes of
    jobs by this object's doing.
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_s: float,
        max_losses: int,
        retention_s: float,
        observer: JobObserver | None = None,
    ) -> None:
        self._database = database
        self.lease_s = lease_s
        self._max_losses = max_losses
        self._retention_s = retention_s
        self._observer = observer or JobObserver()
        self.changes = Changes()

    @property
    def database(self) -> Database:
        """Where the jobs are, for what is kept beside them."""
        return self._database

    def claim(self, worker: str, *, busy: bool = False) -> Claim | None:
        """Take the first waiting job: by priority, then by submission; None if none waits.

        Jobs whose lease ran out come back first, to their old place. busy: whether there was one a
        moment ago; idle workers, who poll, must not take the write lock for nothing.
        """
        now = self._database.now()
        if not busy and not self._database.read(
            lambda connection: transitions.has_work(connection, now)
        ):
            return None

        def operation(connection: Connection) -> tuple[list[Settled], Claim | None]:
            settled = transitions.settle(connection, now, self._max_losses)
            while row := transitions.claim(connection, worker, now, self.lease_s):
                try:
                    return settled, rows.claim_of(connection, row)
                except (ValueError, RecursionError):  # it must not stop the jobs behind it
                    transitions.fail(connection, is_running, row.sequence, now, _UNREADABLE)
                    settled.append(Settled(row.request_id, _UNREADABLE))
            return settled, None

        settled, claim = self._database.write_lightly(operation)
        self._tell(settled)
        if claim is not None:
            self.changes.announce(claim.request_id)
            self._observer.started(claim)
        return claim

    def heartbeat(self, claim: Claim) -> bool:
        """Renew the lease. False: the job was cancelled, or is another worker's now: stop."""
        renew = (
            update(jobs)
            .where(transitions.held(claim), jobs.c.cancel_requested.is_(False))
            .values(lease_until=self._database.now() + self.lease_s)
        )
        return self._database.write_lightly(
            lambda connection: connection.execute(renew).rowcount == 1
        )

    def log(
        self,
        claim: Claim,
        message: str,
        level: Level = "INFO",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Add a line to the job's logs; dropped if the claim was lost."""
        now, more = self._database.now(), labels or {}
        seen = update(jobs).where(transitions.held(claim)).values(version=jobs.c.version + 1)

        def operation(connection: Connection) -> None:
            if connection.execute(seen).rowcount == 1:
                transitions.write_log(connection, claim.sequence, now, message, level, more)

        self._database.write_lightly(operation)
        self.changes.announce(claim.request_id)

    def finish(
        self,
        claim: Claim,
        status_code: int,
        body: Mapping[str, Any],
        metrics: Mapping[str, float],
        payload_error: str | None = None,
    ) -> bool:
        """Store the job's one result. False: the claim was lost, and this result is dropped.

        payload_error: why this is not the job's own output, which is not JSON; for its webhook.
        Raises TypeError or ValueError if the body or the metrics cannot be JSON.
        """
        now = self._database.now()
        as_json(body), as_json(metrics)  # fails here, not within a transaction others share

        def operation(connection: Connection) -> bool:
            held = transitions.held(claim)
            return transitions.complete(
                connection, held, claim.sequence, now, status_code, body, metrics, payload_error
            )

        done = self._database.write(operation)
        self.changes.announce(claim.request_id, *([WEBHOOKS] if claim.webhook_url else []))
        if done:
            self._observer.completed(status_code, body)
        return done

    def give_back(self, claim: Claim) -> bool:
        """Return an unfinished job to its old place, as a worker that stops does.

        False: the claim was lost. A job that was cancelled meanwhile is completed instead.
        """
        now = self._database.now()
        cancelled = transitions.CANCELLED_BY_CLIENT

        def operation(connection: Connection) -> Settled | None:
            held = transitions.held(claim)
            # In this order: a cancel that comes in between finds the job waiting, or is found here.
            if transitions.requeue(connection, held & jobs.c.cancel_requested.is_(False)):
                return Settled(claim.request_id, None)
            if transitions.fail(connection, held, claim.sequence, now, cancelled):
                return Settled(claim.request_id, cancelled)
            return None

        returned = self._database.write_lightly(operation)
        if returned is not None:
            self._tell([returned])
        return returned is not None

    def sweep(self) -> int:
        """Delete completed jobs older than the retention; returns how many.

        One whose webhook is still to be delivered stays, a week at most: then it is given up.
        """
        now = self._database.now()
        oldest = now - self._retention_s
        forgotten = now - max(self._retention_s, webhook_rows.FORGOTTEN_S)
        self._database.write_lightly(lambda connection: webhook_rows.forget(connection, forgotten))
        expired = (
            select(jobs.c.sequence)
            .where(is_completed, jobs.c.completed_at <= oldest, ~webhook_rows.waits_for_webhook())
            .order_by(jobs.c.completed_at)
            .limit(_SWEPT_AT_ONCE)
            .with_for_update(skip_locked=True)
        )

        def operation(connection: Connection) -> int:
            found = list(connection.scalars(expired))
            for table in (results, logs, arguments, webhooks, jobs) if found else ():
                connection.execute(delete(table).where(table.c.sequence.in_(found)))
            return len(found)

        swept = 0
        while found := self._database.write_lightly(operation):
            swept += found
        return swept

    def _tell(self, settled: Iterable[Settled]) -> None:
        """Announce jobs that were completed, or wait again, without a worker's result."""
        for job in settled:
            self.changes.announce(job.request_id, WORK if job.error is None else WEBHOOKS)
            if job.error is not None:
                self._observer.completed(*error_body(job.error))
