"""Threads that do contradictory things to one job at the same moment: one of them wins."""

# ruff: noqa: B023, every function that a loop makes has run when the round ends

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lightfill.engine.errors import QueueFull
from lightfill.engine.fal.queue import JobQueue

ROUNDS = 12


def together(*actions: Callable[[], Any]) -> list[Any]:
    """What each returned; all begin at the same moment."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], Any]) -> Any:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as threads:
        return list(threads.map(run, actions))


@pytest.fixture
def queues(open_queue: Any) -> list[JobQueue]:
    """Four that share a database but nothing else, as four processes do."""
    return [open_queue() for _ in range(4)]


def test_one_job_is_claimed_once(queues: list[JobQueue]) -> None:
    for _ in range(ROUNDS):
        request_id = queues[0].submit("app", {})
        claims = together(*(lambda queue=queue: queue.claim("w") for queue in queues * 2))
        taken = [claim for claim in claims if claim is not None]
        assert [claim.request_id for claim in taken] == [request_id]
        queues[0].finish(taken[0], 200, {}, {})


def test_jobs_are_shared_out(queues: list[JobQueue]) -> None:
    submitted = {queues[0].submit("app", {}) for _ in range(24)}
    claims = together(
        *(lambda queue=queue: [queue.claim("w") for _ in range(6)] for queue in queues)
    )
    taken = [claim.request_id for several in claims for claim in several if claim is not None]
    assert len(taken) == len(set(taken))
    rest = []
    while (claim := queues[0].claim("w")) is not None:
        rest.append(claim.request_id)  # PostgreSQL: a row that was just being looked at was skipped
    assert {*taken, *rest} == submitted
    assert len(taken) + len(rest) == 24


def test_cancel_against_claim(queues: list[JobQueue]) -> None:
    for _ in range(ROUNDS):
        request_id = queues[0].submit("app", {})
        said, claim = together(lambda: queues[0].cancel(request_id), lambda: queues[1].claim("w"))
        assert said == "CANCELLATION_REQUESTED"
        if claim is None:
            assert queues[2].result(request_id).status_code == 499
        else:
            assert not queues[1].heartbeat(claim)
            assert queues[2].status(request_id).state == "IN_PROGRESS"
            assert queues[1].give_back(claim)
            assert queues[2].result(request_id).status_code == 499


def test_cancel_against_finish(queues: list[JobQueue]) -> None:
    for _ in range(ROUNDS):
        request_id = queues[0].submit("app", {})
        claim = queues[1].claim("w")
        assert claim is not None
        said, done = together(
            lambda: queues[0].cancel(request_id), lambda: queues[1].finish(claim, 200, {}, {})
        )
        assert done, "a running job that is cancelled may still complete"
        assert said in {"CANCELLATION_REQUESTED", "ALREADY_COMPLETED"}
        assert queues[2].result(request_id).status_code == 200


def test_finish_against_the_lost_lease(open_queue: Any, clock: Any) -> None:
    """The late worker's result or the next worker's, never both."""
    queues = [open_queue(clock=clock) for _ in range(3)]
    for _ in range(ROUNDS):
        request_id = queues[0].submit("app", {})
        late = queues[0].claim("late")
        clock.now += 31
        done, again, _ = together(
            lambda: queues[0].finish(late, 200, {"by": "late"}, {}),
            lambda: queues[1].claim("next"),
            lambda: queues[2].status(request_id),
        )
        again = again or queues[1].claim("next")  # PostgreSQL: it may have skipped the locked row
        assert done != (again is not None)
        if again is not None:
            assert queues[1].finish(again, 200, {"by": "next"}, {})
            assert not queues[0].finish(late, 200, {"by": "late"}, {})
        by = "late" if done else "next"
        assert queues[2].result(request_id).body == {"by": by}


def test_start_timeout_against_claim(open_queue: Any, clock: Any) -> None:
    """Time passes while they race: begun or timed out, one of the two."""
    queues = [open_queue(clock=clock) for _ in range(3)]
    for _ in range(ROUNDS):
        request_id = queues[0].submit("app", {}, start_timeout=5)
        clock.now += 4.9

        def let_time_pass() -> None:
            clock.now += 0.2

        claim, _, status = together(
            lambda: queues[0].claim("w"), let_time_pass, lambda: queues[1].status(request_id)
        )
        if claim is not None:
            assert queues[0].finish(claim, 200, {}, {})
        expected = 504 if claim is None else 200
        assert queues[2].result(request_id).status_code == expected
        assert status.state in {"IN_QUEUE", "COMPLETED" if claim is None else "IN_PROGRESS"}


def test_give_back_against_cancel(queues: list[JobQueue]) -> None:
    for _ in range(ROUNDS):
        request_id = queues[0].submit("app", {})
        claim = queues[1].claim("w")
        assert claim is not None
        said, returned = together(
            lambda: queues[0].cancel(request_id), lambda: queues[1].give_back(claim)
        )
        assert (said, returned) == ("CANCELLATION_REQUESTED", True)
        assert queues[2].result(request_id).status_code == 499
        assert queues[2].claim("w") is None


def test_the_bound_holds_within_a_process(open_queue: Any) -> None:
    queue = open_queue(max_length=5)

    def submit() -> bool:
        try:
            queue.submit("app", {})
        except QueueFull:
            return False
        return True

    accepted = sum(together(*[submit] * 16))
    assert accepted == queue.length()
    sqlite = queue._database.is_sqlite
    assert accepted == 5 if sqlite else 5 <= accepted <= 16


def test_one_id_is_taken_once_and_spoils_no_other_submit(queues: list[JobQueue]) -> None:
    """In SQLite they share a transaction: the one that fails must not undo the others."""
    queue = queues[0]

    def submit(name: str) -> bool:
        try:
            queue.submit("app", {}, request_id=name)
        except ValueError:
            return False
        return True

    for n in range(ROUNDS):
        same = [lambda n=n: submit(f"same-{n}")] * 4
        others = [lambda n=n, k=k: submit(f"other-{n}-{k}") for k in range(8)]
        done = together(*same, *others)
        assert sum(done[:4]) == 1
        assert all(done[4:])
    assert queue.length() == ROUNDS * 9
