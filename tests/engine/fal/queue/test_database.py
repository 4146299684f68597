"""The job database: what is refused and how it is said, durability, and plans that use indexes."""

import logging
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from lightfill.engine.errors import DatabaseUnavailable
from lightfill.engine.fal import jobs_table
from lightfill.engine.fal.database import Database
from lightfill.engine.fal.group_commit import GroupCommit
from lightfill.engine.fal.outbox import Outbox
from lightfill.engine.fal.queue import JobQueue


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("queue.sqlite3", "is not a URL"),
        ("sqlite://", "sqlite in memory"),
        ("sqlite:///:memory:", "sqlite in memory"),
        ("mysql://host/name", "is for mysql"),
        ("postgresql://me:secret@127.0.0.1:1/name", "cannot be used"),
        ("postgresql://127.0.0.1:1/name?user=me&password=secret", "cannot be used"),
        ("sqlite:////proc/nowhere/queue.sqlite3", "cannot be used"),
    ],
)
def test_urls_that_cannot_be_used(url: str, message: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=message) as raised:
        Database(url)
    assert "secret" not in str(raised.value)
    assert raised.value.http_status == 503


def test_a_relative_file_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    queue = JobQueue.open("sqlite:///q.sqlite3", max_length=None, retention_s=60, lease_s=30)
    monkeypatch.chdir("/")
    queue._database._engine.dispose()  # the next connection is a new one
    assert queue.status(queue.submit("app", {})).state == "IN_QUEUE"
    queue.close()


def test_prompts_do_not_get_into_the_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tracebacks of a failing database are logged; what was to be written is none of them."""
    database = Database(f"sqlite:///{tmp_path / 'q.sqlite3'}")
    statement = text("INSERT INTO lightfill_results VALUES (1, :content)")
    values = {"content": "my secret prompt"}
    try:
        for _ in range(2):
            database.write(lambda c: c.execute(statement, values))
    except DatabaseUnavailable:
        logging.getLogger("test").exception("as workers log it")
    assert "UNIQUE constraint failed" in caplog.text
    assert "secret" not in caplog.text
    database.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at" * 50)
    with pytest.raises(DatabaseUnavailable, match="file is not a database"):
        Database(f"sqlite:///{tmp_path / 'notes.txt'}")


def test_another_versions_tables_are_left_alone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database(database_url).close()
    Database(database_url).close()
    version = jobs_table.SCHEMA_VERSION
    monkeypatch.setattr(jobs_table, "SCHEMA_VERSION", version + 1)
    with pytest.raises(
        DatabaseUnavailable, match=f"has schema {version}, this lightfill {version + 1}"
    ):
        Database(database_url)


def test_without_the_driver_it_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(DatabaseUnavailable, match=r"pip install 'lightfill\[postgres\]'"):
        Database("postgresql://127.0.0.1/name")


def test_processes_may_open_a_new_database_together(database_url: str) -> None:
    errors = []

    def open_one() -> None:
        try:
            Database(database_url).close()
        except DatabaseUnavailable as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_the_servers_clock_is_used(postgres: str) -> None:
    database = Database(postgres)
    assert abs(database.now() - time.time()) < 5, "the same machine"
    first = database.now()
    assert 0 <= database.now() - first < 5
    database.close()


def test_what_must_survive_a_power_cut_is_synchronous(tmp_path: Path) -> None:
    """Which writes run with synchronous=FULL (2), and which with NORMAL (1)."""
    queue = JobQueue.open(
        f"sqlite:///{tmp_path / 'q.sqlite3'}", max_length=None, retention_s=0.001, lease_s=30
    )
    levels = []

    def commit(connection: Any) -> None:
        raw = connection.connection.driver_connection
        if raw.total_changes != changes.get(raw, 0):
            changes[raw] = raw.total_changes
            levels.append(*raw.execute("PRAGMA synchronous").fetchone())

    changes: dict[sqlite3.Connection, int] = {}
    event.listen(queue._database._engine, "commit", commit)

    def level(action: Any, *arguments: Any) -> tuple[Any, int]:
        levels.clear()
        answer = action(*arguments)
        return answer, levels[-1]

    assert level(queue.submit, "app", {})[1] == 2
    claim, light = level(queue.claim, "worker")
    assert light == 1
    assert level(queue.heartbeat, claim)[1] == 1
    assert level(queue.log, claim, "step 1/4")[1] == 1
    assert level(queue.cancel, claim.request_id)[1] == 2
    assert level(queue.finish, claim, 200, {}, {})[1] == 2
    journal = queue._database.read(
        lambda connection: connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    )
    assert journal == "wal"
    queue.close()


def test_no_statement_reads_the_whole_table(tmp_path: Path) -> None:
    """10,000 stored jobs are no reason to be slow: every look at them goes through an index."""
    queue = JobQueue.open(
        f"sqlite:///{tmp_path / 'q.sqlite3'}", max_length=50, retention_s=1, lease_s=30
    )
    statements: dict[str, Any] = {}

    @event.listens_for(queue._database._engine, "before_cursor_execute")
    def remember(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            statements[statement] = parameters

    ids = [queue.submit("app", {}, start_timeout=60, webhook_url="http://a") for _ in range(3)]
    claim = queue.claim("worker")
    assert claim
    queue.log(claim, "step")
    queue.heartbeat(claim)
    queue.status(ids[2], with_logs=True)
    queue.finish(claim, 200, {}, {})
    queue.result(ids[0])
    queue.cancel(ids[1])
    outbox = Outbox(queue.database)
    delivery = outbox.claim(60, {"busy"})
    assert delivery
    outbox.delivered(delivery)
    queue.sweep()
    queue.load()
    assert len(statements) > 12
    raw = sqlite3.connect(tmp_path / "q.sqlite3")
    for statement, parameters in statements.items():
        plan = [row[-1] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
        scans = [step for step in plan if step.startswith("SCAN lightfill_")]
        scans = [step for step in scans if not step.endswith("_waiting")]  # a row per block
        assert all("USING" in step for step in scans), (statement, plan)
    raw.close()
    queue.close()


def test_threads_share_commits(tmp_path: Path) -> None:
    """While one group is written, the next gathers: fewer transactions than writes."""
    database = Database(f"sqlite:///{tmp_path / 'q.sqlite3'}")
    transactions = []
    transaction = database._transaction

    def slow(durable: bool) -> Any:
        transactions.append(durable)
        time.sleep(0.02)
        return transaction(durable)

    group = GroupCommit(slow)
    threads = [
        threading.Thread(target=group.run, args=(lambda _: None,), kwargs={"durable": n == 5})
        for n in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(transactions) < 20
    assert sum(transactions) == 1, "the one that must reach the disk took its group along"
    database.close()


def test_a_failing_write_fails_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'q.sqlite3'}")
    database.write(lambda c: c.exec_driver_sql("CREATE TABLE numbers (n INTEGER)"))
    may_go = threading.Event()
    outcomes: dict[int, str] = {}

    def write(n: int) -> None:
        def operation(connection: Any) -> None:
            if n == 0:
                may_go.wait(30)
            connection.exec_driver_sql("INSERT INTO numbers VALUES (?)", (n,))
            if n == 7:
                raise KeyError(n)

        try:
            database.write(operation)
            outcomes[n] = "written"
        except KeyError:
            outcomes[n] = "failed"

    threads = [threading.Thread(target=write, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    may_go.set()
    for thread in threads:
        thread.join()
    rows = database.read(lambda c: list(c.exec_driver_sql("SELECT n FROM numbers ORDER BY n")))
    assert [n for (n,) in rows] == [n for n in range(12) if n != 7]
    assert outcomes == {n: "failed" if n == 7 else "written" for n in range(12)}
    database.close()


def test_an_interrupted_writer_leaves_the_queue_working() -> None:
    """Ctrl-C in the thread that was next to lead: another one leads."""
    group = GroupCommit(None)  # type: ignore[arg-type]
    group._led = True
    interrupted, other = threading.Event(), _Interrupted()
    write: Any = type("Write", (), {"woken": other, "done": False})()
    group._waiting.append(write)
    heir: Any = type("Write", (), {"woken": interrupted, "done": False})()
    group._waiting.append(heir)
    group._withdraw(write)
    assert interrupted.is_set()
    assert group._waiting == [heir]


class _Interrupted(threading.Event):
    """Had been told to lead."""

    def is_set(self) -> bool:
        return True
