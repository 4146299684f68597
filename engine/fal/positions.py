"""How many jobs wait, and how many of them are ahead of one.

Every waiting client asks for its position, and every submit of a bounded queue for the length.
Counting 10,000 rows takes a millisecond; in SQLite triggers keep counts by block of 256 sequence
numbers, and only the job's own block is counted. In PostgreSQL such counters would make concurrent
submits wait for each other's commit, so there the rows are counted, through their index.
"""

from typing import NamedTuple

from sqlalchemy import BindParameter, Connection, and_, bindparam, func, or_, select

from .jobs_table import (
    BLOCK_BITS,
    is_running,
    is_undelivered,
    is_waiting,
    jobs,
    waiting_blocks,
    webhooks,
)

_block = waiting_blocks.c
_total = select(func.coalesce(func.sum(_block.jobs), 0))
_priority: BindParameter[int] = bindparam("p")
_sequence: BindParameter[int] = bindparam("s")
_before: BindParameter[int] = bindparam("b")

_LENGTH = {
    "sqlite": _total,
    "postgresql": select(func.count()).select_from(jobs).where(is_waiting),
}
_SAME_PRIORITY = (
    select(func.count())
    .select_from(jobs)
    .where(is_waiting, jobs.c.priority == _priority, jobs.c.sequence < _sequence)
)
_AHEAD = {
    "sqlite": select(
        _total.where(
            or_(
                _block.priority < _priority,
                and_(_block.priority == _priority, _block.block < _before),
            )
        ).scalar_subquery()
        + _SAME_PRIORITY.where(jobs.c.sequence >= _before * (1 << BLOCK_BITS)).scalar_subquery()
    ),
    "postgresql": select(
        _SAME_PRIORITY.scalar_subquery()
        + select(func.count())
        .select_from(jobs)
        .where(is_waiting, jobs.c.priority < _priority)
        .scalar_subquery()
    ),
}
_RUNNING = select(func.count()).select_from(jobs).where(is_running)
_WEBHOOKS = select(func.count()).select_from(webhooks).where(is_undelivered)


class Load(NamedTuple):
    """Jobs that wait, jobs that run, webhooks that are to be delivered."""

    waiting: int
    running: int
    webhooks: int


def load(connection: Connection) -> Load:
    """How much there is to do."""
    running, undelivered = (connection.scalar(query) or 0 for query in (_RUNNING, _WEBHOOKS))
    return Load(length(connection), int(running), int(undelivered))


def length(connection: Connection) -> int:
    """Jobs that wait."""
    return int(connection.scalar(_LENGTH[connection.dialect.name]) or 0)


def ahead(connection: Connection, priority: int, sequence: int) -> int:
    """Waiting jobs that are handed out before this one."""
    where = {"p": priority, "s": sequence, "b": sequence >> BLOCK_BITS}
    return int(connection.scalar(_AHEAD[connection.dialect.name], where) or 0)
