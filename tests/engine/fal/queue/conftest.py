"""Queues on both databases."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lightfill.engine.fal.queue import JobQueue

OpenQueue = Callable[..., JobQueue]


class Clock:
    """Time that moves when told to; `now` is in seconds since 1970."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


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
