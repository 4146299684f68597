"""The tables of the job database, the same in SQLite and PostgreSQL.

    lightfill_jobs        one small row per job: what status polls and heartbeats touch
    lightfill_arguments   a job's input, until it is completed
    lightfill_results     a completed job's answer; its primary key makes a second one impossible
    lightfill_logs        what workers said
    lightfill_webhooks    completed jobs whose caller wants to be told: the outbox
    lightfill_waiting     SQLite only: how many jobs wait, by priority and block of sequence numbers

Megabytes of data URI stay out of the rows that every heartbeat rewrites. Times are seconds since
1970 (UTC). JSON is text: nothing ever asks the database what is inside.
"""

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    column,
    event,
    func,
    insert,
    literal_column,
    select,
    table,
)

from ..errors import DatabaseUnavailable

SCHEMA_VERSION = 2
"""Raised with every change to the tables; a database of another version is not touched."""

IN_QUEUE, IN_PROGRESS, COMPLETED = "IN_QUEUE", "IN_PROGRESS", "COMPLETED"
PENDING, DELIVERED, GIVEN_UP = "PENDING", "DELIVERED", "GIVEN_UP"
"""States of a webhook."""
PRIORITIES = {"normal": 0, "low": 1}
"""Smaller is sooner (fal protocol, section 5.6)."""

metadata = MetaData()
_Sequence = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers INTEGER keys only

jobs = Table(
    "lightfill_jobs",
    metadata,
    Column("sequence", _Sequence, primary_key=True),  # order of submission
    Column("request_id", String, nullable=False, unique=True),
    Column("application", String, nullable=False),
    Column("path", String, nullable=False),
    Column("owner", String),
    Column("webhook_url", String),
    Column("priority", SmallInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("version", Integer, nullable=False, default=1),  # counts what a watcher could see
    Column("submitted_at", Double, nullable=False),
    Column("start_deadline", Double),  # no longer set once the job has been started
    Column("claims", Integer, nullable=False, default=0),  # the last one's number is the lease
    Column("losses", Integer, nullable=False, default=0),  # workers that died over it
    Column("worker", String),
    Column("lease_until", Double),
    Column("started_at", Double),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("completed_at", Double),
    Column("status_code", SmallInteger),
    Column("error", String),
    Column("error_type", String),
    Column("metrics", Text, nullable=False, default="{}"),
    sqlite_autoincrement=True,  # numbers of deleted jobs do not come back
)
arguments = Table(
    "lightfill_arguments",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=False),
    Column("content", Text, nullable=False),
)
results = Table(
    "lightfill_results",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=False),
    Column("content", Text, nullable=False),
)
logs = Table(
    "lightfill_logs",
    metadata,
    Column("number", _Sequence, primary_key=True),
    Column("sequence", _Sequence, nullable=False, index=True),
    Column("timestamp", Double, nullable=False),
    Column("level", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("labels", Text, nullable=False),
)
webhooks = Table(
    "lightfill_webhooks",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=False),
    Column("receiver", String, nullable=False),  # host and port: each gets its share of a server
    Column("state", String, nullable=False, default=PENDING),
    Column("created_at", Double, nullable=False),
    Column("due_at", Double, nullable=False),  # while one server sends it, its lease's end
    Column("claims", Integer, nullable=False, default=0),  # the last one's number is the lease
    Column("failures", Integer, nullable=False, default=0),
    Column("reason", Text),  # why the last attempt failed
    Column("payload_error", Text),  # why the output is not JSON (fal protocol, section 10)
)
_schema = Table(
    "lightfill_schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False)
)
waiting_blocks = table("lightfill_waiting", column("priority"), column("block"), column("jobs"))
BLOCK_BITS = 8

# Literals, not parameters: a planner uses a partial index only if it can see the condition.
is_waiting = jobs.c.state == literal_column(f"'{IN_QUEUE}'")
is_running = jobs.c.state == literal_column(f"'{IN_PROGRESS}'")
is_completed = jobs.c.state == literal_column(f"'{COMPLETED}'")
is_undelivered = webhooks.c.state == literal_column(f"'{PENDING}'")

for _name, _columns, _condition in (
    ("waiting", [jobs.c.priority, jobs.c.sequence], is_waiting),
    ("deadlines", [jobs.c.start_deadline], is_waiting & jobs.c.start_deadline.is_not(None)),
    ("leases", [jobs.c.lease_until], is_running),
    ("completed", [jobs.c.completed_at], is_completed),
):
    Index(
        f"lightfill_jobs_{_name}",
        *_columns,
        sqlite_where=_condition,
        postgresql_where=_condition,
    )
Index(
    "lightfill_webhooks_due",
    webhooks.c.due_at,
    sqlite_where=is_undelivered,
    postgresql_where=is_undelivered,
)

_KEEP_COUNT = f"""
    CREATE TABLE lightfill_waiting (
        priority INTEGER NOT NULL, block INTEGER NOT NULL, jobs INTEGER NOT NULL,
        PRIMARY KEY (priority, block)
    ) WITHOUT ROWID
    --
    CREATE TRIGGER lightfill_waiting_submitted AFTER INSERT ON lightfill_jobs
    WHEN NEW.state = '{IN_QUEUE}' BEGIN
        INSERT INTO lightfill_waiting VALUES (NEW.priority, NEW.sequence >> {BLOCK_BITS}, 1)
        ON CONFLICT (priority, block) DO UPDATE SET jobs = jobs + 1;
    END
    --
    CREATE TRIGGER lightfill_waiting_returned AFTER UPDATE OF state ON lightfill_jobs
    WHEN NEW.state = '{IN_QUEUE}' AND OLD.state <> '{IN_QUEUE}' BEGIN
        INSERT INTO lightfill_waiting VALUES (NEW.priority, NEW.sequence >> {BLOCK_BITS}, 1)
        ON CONFLICT (priority, block) DO UPDATE SET jobs = jobs + 1;
    END
    --
    CREATE TRIGGER lightfill_waiting_left AFTER UPDATE OF state ON lightfill_jobs
    WHEN OLD.state = '{IN_QUEUE}' AND NEW.state <> '{IN_QUEUE}' BEGIN
        UPDATE lightfill_waiting SET jobs = jobs - 1
        WHERE priority = OLD.priority AND block = OLD.sequence >> {BLOCK_BITS};
        DELETE FROM lightfill_waiting
        WHERE priority = OLD.priority AND block = OLD.sequence >> {BLOCK_BITS} AND jobs = 0;
    END
"""  # noqa: S608, constants of this module
for _statement in _KEEP_COUNT.split("--"):
    _make: Any = DDL(_statement)  # type: ignore[no-untyped-call]
    event.listen(jobs, "after_create", _make.execute_if(dialect="sqlite"))


def create_tables(connection: Connection) -> None:
    """Make what is missing, in one transaction that one process at a time may be in.

    Raises DatabaseUnavailable if another version of lightfill made the tables.
    """
    one_at_a_time(connection)
    metadata.create_all(connection)
    found = connection.scalar(select(_schema.c.version))
    if found is None:
        connection.execute(insert(_schema).values(version=SCHEMA_VERSION))
    elif found != SCHEMA_VERSION:
        raise DatabaseUnavailable(
            f"the job database has schema {found}, this lightfill {SCHEMA_VERSION}; use the "
            "lightfill that made it, or give another database_url"
        )


def one_at_a_time(connection: Connection) -> None:
    """Let no other process make tables until this transaction ends."""
    if connection.dialect.name == "postgresql":  # SQLite's write transactions exclude each other
        connection.execute(select(func.pg_advisory_xact_lock(0x6C66_6A6F_6273)))
