"""A process that forks with its job database open: neither side finds it locked or broken."""

import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from lightfill.engine.fal.fork_gate import ForkGate

PRELUDE = textwrap.dedent(
    """
    import os, sys, threading, time
    from sqlalchemy import text
    from lightfill.engine.fal import database
    from lightfill.engine.fal.database import Database

    database._BUSY_S = 3.0
    here = Database(f"sqlite:///{sys.argv[1]}")

    def insert(number, pause=0.0):
        def operation(connection):
            connection.execute(text("INSERT INTO written VALUES (:number)"), {"number": number})
            began.set()
            time.sleep(pause)
        return operation

    began = threading.Event()
    here.write(lambda connection: connection.execute(text("CREATE TABLE written (number)")))
    """
)


def forked(code: str, tmp_path: Path) -> str:
    """What the script printed; it forks, so it is a process of its own."""
    script = PRELUDE + textwrap.dedent(code)
    command = [sys.executable, "-c", script, str(tmp_path / "queue.sqlite3")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_child_forked_in_the_middle_of_a_transaction_can_write(tmp_path: Path) -> None:
    printed = forked(
        """
        writer = threading.Thread(target=here.write, args=(insert(1, pause=0.5),))
        writer.start()
        began.wait()
        if os.fork() == 0:
            there = Database(f"sqlite:///{sys.argv[1]}")
            there.write(insert(2))
            os._exit(0)
        print("child", os.waitstatus_to_exitcode(os.wait()[1]))
        writer.join()
        here.write(insert(3))
        rows = here.read(lambda connection: list(connection.execute(text("SELECT * FROM written"))))
        print([number for (number,) in rows])
        """,
        tmp_path,
    )
    assert printed == "child 0\n[1, 2, 3]\n"


def test_a_child_that_outlives_its_parent_keeps_the_database_whole(tmp_path: Path) -> None:
    """SQLite's lock on the shared-memory file must be the child's own, not inherited in name."""
    printed = forked(
        """
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            there = Database(f"sqlite:///{sys.argv[1]}")
            there.write(insert(1))
            os.write(theirs, b"x")
            time.sleep(0.5)  # the parent's connections are closed, and another process's come
            there.write(insert(2))
            os._exit(0)
        os.read(ours, 1)
        here.close()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", '''if True:
                import sqlite3, sys
                connection = sqlite3.connect(sys.argv[1], timeout=10)
                connection.execute("INSERT INTO written VALUES (3)")
                connection.commit()
                connection.close()
            ''', sys.argv[1]])
        print(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)))
        print(here.read(lambda connection: [
            sorted(number for (number,) in connection.execute(text("SELECT * FROM written"))),
            connection.execute(text("PRAGMA integrity_check")).scalar(),
        ]))
        """,
        tmp_path,
    )
    assert printed == "[0, 0]\n[[1, 2, 3], 'ok']\n"


def test_no_connection_is_open_across_a_fork(tmp_path: Path) -> None:
    printed = forked(
        """
        here.read(lambda connection: connection.execute(text("SELECT 1")))
        def open_files():
            links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
            return [os.readlink(link) for link in links if os.path.exists(link)]
        print(any("queue.sqlite3" in name for name in open_files()))
        if os.fork() == 0:
            print(any("queue.sqlite3" in name for name in open_files()), flush=True)
            os._exit(0)
        os.wait()
        """,
        tmp_path,
    )
    assert printed.split() == ["True", "False"]


def test_whoever_comes_during_a_fork_waits_for_its_end() -> None:
    gate = ForkGate()
    order: list[str] = []

    def use() -> None:
        with gate.inside():
            order.append("used")

    gate.before_fork()
    thread = threading.Thread(target=use)
    thread.start()
    time.sleep(0.05)
    order.append("forked")
    gate.after_in_parent()
    thread.join(10)
    assert order == ["forked", "used"]


def test_nested_use_goes_on_while_a_fork_waits() -> None:
    gate = ForkGate()
    order: list[str] = []
    entered = threading.Event()

    def use() -> None:
        with gate.inside():
            entered.set()
            time.sleep(0.1)  # the fork below waits by now
            with gate.inside():
                order.append("nested")

    thread = threading.Thread(target=use)
    thread.start()
    entered.wait()
    gate.before_fork()
    order.append("forked")
    gate.after_in_parent()
    thread.join(10)
    assert order == ["nested", "forked"]


def test_a_fork_within_one_s_own_transaction_does_not_wait_for_it() -> None:
    gate = ForkGate()
    started = time.monotonic()
    with gate.inside(), gate.inside():
        gate.before_fork()
        gate.after_in_parent()
    assert time.monotonic() - started < 10


def test_a_transaction_that_does_not_end_delays_a_fork_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lightfill.engine.fal.fork_gate._PATIENCE_S", 0.05)
    gate, leave, entered = ForkGate(), threading.Event(), threading.Event()
    engine = create_engine("sqlite://")
    gate.guard(engine)
    pool = engine.pool

    def use() -> None:
        with gate.inside():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=use)
    thread.start()
    entered.wait()
    gate.before_fork()
    assert engine.pool is pool  # its connections are in use: they are not closed under it
    gate.after_in_parent()
    leave.set()
    thread.join(10)
    gate.before_fork()
    assert engine.pool is not pool
    gate.after_in_parent()
