"""Rows of the outbox: what `transitions.complete` puts there, and what sweeping respects."""

from sqlalchemy import ColumnElement, Connection, insert, select, update

from .jobs_table import GIVEN_UP, is_undelivered, jobs, webhooks
from .urls import UrlRefused, read_url

FORGOTTEN_S = 7 * 86_400.0
"""How long a webhook waits for a server at least: none may run where jobs run in process."""


def enqueue(
    connection: Connection, sequence: int, url: str, now: float, payload_error: str | None
) -> None:
    """Job `sequence`, just completed, is to be told to `url`."""
    connection.execute(
        insert(webhooks).values(
            sequence=sequence,
            receiver=_receiver(url),
            created_at=now,
            due_at=now,
            payload_error=payload_error,
        )
    )


def forget(connection: Connection, before: float) -> int:
    """Give up what has waited since `before`; returns how many. Otherwise its job stayed for ever.

    One that is being sent now ends as given up, too: its row no longer waits for an outcome.
    """
    reason = "no server delivered it in time"
    old = update(webhooks).where(is_undelivered, webhooks.c.created_at <= before)
    return connection.execute(old.values(state=GIVEN_UP, reason=reason)).rowcount


def waits_for_webhook() -> ColumnElement[bool]:
    """Whether a row of `jobs` has a webhook that is neither delivered nor given up."""
    return (
        select(webhooks.c.sequence)
        .where(webhooks.c.sequence == jobs.c.sequence, is_undelivered)
        .exists()
    )


def _receiver(url: str) -> str:
    """The host and port of `url`; "" if it has none, which sending it will tell."""
    try:
        return read_url(url).authority
    except UrlRefused:
        return ""
