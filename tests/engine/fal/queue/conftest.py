"""Queues on both databases; PostgreSQL is started once, by the first test that needs it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import postgres_server
import pytest

from lightfill.engine.fal.queue import JobQueue

OpenQueue = Callable[..., JobQueue]
BOTH = ["sqlite", "postgresql"]


class Clock:
    """Time that moves when told to; `now` is in seconds since 1970."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_server.running() as url:
        yield url


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.sqlite3'}"
    return postgres_server.fresh_schema(request.getfixturevalue("postgres"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_queue(database_url: str) -> Iterator[OpenQueue]:
    """Opens queues, which share the test's database, and closes them at the end."""
    opened = []

    def open_one(**options: Any) -> JobQueue:
        defaults: Any = {"max_length": None, "retention_s": 3600, "lease_s": 30}
        queue = JobQueue.open(database_url, **{**defaults, **options})
        opened.append(queue)
        return queue

    yield open_one
    for queue in opened:
        queue.close()


@pytest.fixture
def queue(open_queue: OpenQueue, clock: Clock) -> JobQueue:
    return open_queue(clock=clock)
