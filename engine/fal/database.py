"""The job database: SQLite in a file, or PostgreSQL by URL, behind three kinds of transaction.

What survives what:
- SQLite runs in WAL mode. A commit is in the kernel's page cache before it returns, so killing the
  process (kill -9) loses nothing that was acknowledged. Durable writes (submit, cancel, finish) are
  made with synchronous=FULL: they are on the disk before they return, and survive a power cut too.
  The others (claims, heartbeats, logs) with synchronous=NORMAL: after a power cut they may be
  forgotten, and the job then simply runs again.
- PostgreSQL: its own synchronous_commit, on unless the server's owner turned it off.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    MetaData,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DataError, OperationalError, SQLAlchemyError

from ..errors import DatabaseUnavailable, InvalidInput
from .fork_gate import gate
from .group_commit import GroupCommit
from .jobs_table import create_tables, one_at_a_time
from .settings import without_secrets

T = TypeVar("T")
Clock = Callable[[], float]
_BUSY_S = 30.0
"""How long a write waits for another process's write."""
_MIN_SQLITE = (3, 35)
"""The first with RETURNING."""


class Database:
    """Transactions on the tables; use from any thread."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        self._url = _parsed(url)
        self.shown_url = without_secrets(self._url.render_as_string(hide_password=True))
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        with self._told():
            self._engine = _sqlite(self._url) if self.is_sqlite else _postgresql(self._url)
            try:
                self._open()
            except BaseException:
                self.close()
                raise
        self._clock = clock or (time.time if self.is_sqlite else _ServerClock(self._engine))
        self._group = GroupCommit(self._transaction) if self.is_sqlite else None

    def now(self) -> float:
        """The time all leases and deadlines go by: seconds since 1970. Not within an operation."""
        with self._told():
            return self._clock()

    def read(self, operation: Callable[[Connection], T]) -> T:
        """What `operation` returns; in SQLite it sees one moment's state."""
        with self._told(), self._begun("DEFERRED") as connection:
            return operation(connection)

    def write(self, operation: Callable[[Connection], T]) -> T:
        """What `operation` returns, once it is on the disk."""
        return self._write(operation, durable=True)

    def write_lightly(self, operation: Callable[[Connection], T]) -> T:
        """As `write`, but a power cut may undo it; a killed process cannot."""
        return self._write(operation, durable=False)

    def create(self, tables: MetaData) -> None:
        """Make those of `tables` that are missing; several processes may do so at once."""

        def operation(connection: Connection) -> None:
            one_at_a_time(connection)
            tables.create_all(connection)

        self.write(operation)

    def close(self) -> None:
        """Close every connection that is not in use."""
        with self._no_fork():
            self._engine.dispose()

    def _write(self, operation: Callable[[Connection], T], *, durable: bool) -> T:
        with self._told():
            if self._group is not None:
                return self._group.run(operation, durable=durable)
            with self._transaction(durable) as connection:
                return operation(connection)

    def _transaction(self, durable: bool) -> AbstractContextManager[Connection]:
        return self._begun("IMMEDIATE FULL" if durable else "IMMEDIATE NORMAL")

    @contextmanager
    def _begun(self, kind: str) -> Iterator[Connection]:
        with (
            self._no_fork(),
            self._engine.connect().execution_options(lightfill_begin=kind) as connection,
            connection.begin(),
        ):
            yield connection

    def _no_fork(self) -> AbstractContextManager[None]:
        return gate.inside() if self.is_sqlite else nullcontext()

    def _open(self) -> None:
        """Tables and journal mode; processes that start together may find the file locked."""
        give_up = time.monotonic() + _BUSY_S
        while True:
            try:
                with self._transaction(True) as connection:
                    return create_tables(connection)
            except (OperationalError, sqlite3.OperationalError) as error:
                if "locked" not in str(error) or time.monotonic() > give_up:
                    raise
                time.sleep(0.05)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """No foreign exception leaves: the driver's become DatabaseUnavailable.

        InvalidInput if it is the values that the database refuses: repeating that is no use.
        """
        try:
            yield
        except DataError as error:
            raise InvalidInput(
                "request", f"the job database cannot hold it ({error.orig}); make it smaller"
            ) from error
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise DatabaseUnavailable(
                f"the job database {self.shown_url} cannot be used: {reason}; "
                "check database_url (LIGHTFILL_DATABASE_URL) and what it names"
            ) from error


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise DatabaseUnavailable(
            "database_url is not a URL; write sqlite:////path/to/queue.sqlite3 or "
            "postgresql://user:password@host/name"
        ) from error
    backend = url.get_backend_name()
    if backend == "sqlite" and (url.database or ":memory:") != ":memory:":
        return url
    if backend in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    raise DatabaseUnavailable(
        f"database_url is for {backend}{' in memory' * (backend == 'sqlite')}; jobs are kept in "
        "a SQLite file or in PostgreSQL: write sqlite:////path/to/file or postgresql://..."
    )


def _sqlite(url: URL) -> Engine:
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        raise DatabaseUnavailable(
            f"Python's SQLite is {sqlite3.sqlite_version}; jobs need 3.35 or newer: use a Python "
            "built with one, or PostgreSQL through database_url"
        )
    file = Path(str(url.database))
    if not str(file).startswith("file:"):
        # Connections are opened later, too, perhaps in another working directory.
        file = file.absolute()
        url = url.set(database=str(file))
        file.parent.mkdir(parents=True, exist_ok=True)
    # isolation_level None: the driver begins nothing by itself, `begin` below does.
    options = {"timeout": _BUSY_S, "check_same_thread": False, "isolation_level": None}
    # hide_parameters: prompts and pictures are not for the logs.
    engine = create_engine(
        url, connect_args=options, pool_size=16, max_overflow=-1, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise DatabaseUnavailable(
                f"{url.database} cannot be used in WAL mode (a network drive?); put data_dir "
                "(LIGHTFILL_DATA_DIR) on a local disk, or use PostgreSQL through database_url"
            )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        kind, _, synchronous = connection.get_execution_options()["lightfill_begin"].partition(" ")
        if synchronous and connection.info.get("synchronous") != synchronous:
            connection.info["synchronous"] = synchronous
            connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
        connection.exec_driver_sql(f"BEGIN {kind}")

    gate.guard(engine)
    return engine


def _postgresql(url: URL) -> Engine:
    try:
        # pre_ping: a restarted server costs one reconnection, not a failed request.
        return create_engine(
            url,
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            hide_parameters=True,
            pool_size=8,
            max_overflow=24,
        )
    except ModuleNotFoundError as error:
        raise DatabaseUnavailable(
            "PostgreSQL needs a driver: run `pip install 'lightfill[postgres]'`"
        ) from error


class _ServerClock:
    """The database server's time, so that machines whose clocks differ agree about leases."""

    _REFRESH_S = 60.0

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._offset, self._refreshed = 0.0, -self._REFRESH_S

    def __call__(self) -> float:
        local = time.monotonic()
        if local - self._refreshed >= self._REFRESH_S:
            epoch = select(func.extract("epoch", func.clock_timestamp()))
            with self._engine.connect() as connection:
                asked = time.monotonic()
                server = float(connection.scalar(epoch) or 0)
                local = time.monotonic()
            self._offset = server - (asked + local) / 2
            self._refreshed = local
        return local + self._offset
