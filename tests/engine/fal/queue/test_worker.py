"""Workers: what becomes of a job whatever `run` does, and of a worker that is stopped."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DataError

from lightfill.engine.errors import Cancelled, DatabaseUnavailable, InvalidInput, StorageError
from lightfill.engine.fal.job import Claim
from lightfill.engine.fal.queue import JobQueue
from lightfill.engine.fal.worker import Worker

Log = Callable[[str], None]
Asked = Callable[[], bool]
PATIENCE_S = 30.0


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    url = f"sqlite:///{tmp_path / 'queue.sqlite3'}"
    queue = JobQueue.open(url, max_length=None, retention_s=3600, lease_s=30)
    yield queue
    queue.close()


def echo(claim: Claim, log: Log, cancelled: Asked) -> Any:
    log("echoing")
    return 200, dict(claim.arguments), {"echo": 0.5}


def until_cancelled(claim: Claim, log: Log, cancelled: Asked) -> Any:
    log("started")
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        if cancelled():
            raise Cancelled("stopped between steps")
        time.sleep(0.005)
    return 500, {}, {}


def until_state(queue: JobQueue, request_id: str, state: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while (status := queue.status(request_id)).state != state:
        assert time.monotonic() < give_up
        queue.wait(request_id, 1, since=status)


def outcome(queue: JobQueue, run: Any) -> tuple[int, dict[str, Any]]:
    request_id = queue.submit("app", {"n": 1})
    with Worker(queue, run):
        until_state(queue, request_id, "COMPLETED")
    result = queue.result(request_id)
    return result.status_code, result.body


def test_jobs_are_run(queue: JobQueue) -> None:
    with Worker(queue, echo):
        submitted = [queue.submit("app", {"n": n}) for n in range(5)]
        for request_id in submitted:
            until_state(queue, request_id, "COMPLETED")
    for n, request_id in enumerate(submitted):
        assert queue.result(request_id).body == {"n": n}
        status = queue.status(request_id, with_logs=True)
        assert status.metrics["echo"] == 0.5
        assert 0 <= status.metrics["inference_time"] < PATIENCE_S
        assert [entry["message"] for entry in status.logs or []] == ["echoing"]


def test_a_submit_of_this_process_wakes_an_idle_worker(queue: JobQueue) -> None:
    with Worker(queue, echo, poll_s=3600):
        time.sleep(0.1)
        until_state(queue, queue.submit("app", {}), "COMPLETED")


def test_a_job_of_another_process_is_found(queue: JobQueue, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'queue.sqlite3'}"
    other = JobQueue.open(url, max_length=None, retention_s=3600, lease_s=30)
    with Worker(queue, echo, poll_s=0.02):
        time.sleep(0.05)
        until_state(other, other.submit("app", {}), "COMPLETED")
    other.close()


@pytest.mark.parametrize(
    ("error", "status_code", "body"),
    [
        (
            InvalidInput("mask", "is empty; paint some of it white"),
            422,
            {
                "detail": [
                    {
                        "type": "value_error",
                        "loc": ["body", "mask_url"],
                        "msg": "is empty; paint some of it white",
                    }
                ]
            },
        ),
        (RuntimeError("a secret path"), 500, {"detail": "Internal Server Error"}),
        (
            Cancelled("by itself"),
            499,
            {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"},
        ),
    ],
)
def test_errors_become_fals_replies(
    queue: JobQueue, error: Exception, status_code: int, body: dict[str, Any]
) -> None:
    def fail(*_: object) -> Any:
        raise error

    assert outcome(queue, fail) == (status_code, body)


@pytest.mark.parametrize("bad", [{"image": object()}, {"loss": float("nan")}])
def test_a_result_that_is_no_json_is_a_500(queue: JobQueue, bad: dict[str, Any]) -> None:
    status_code, body = outcome(queue, lambda *_: (200, bad, {}))
    assert (status_code, body) == (500, {"detail": "Internal Server Error"})


@pytest.mark.parametrize("text", ["a\0b", "\ud800"], ids=["NUL", "half a pair"])
def test_an_error_that_quotes_any_text_ends_its_job(open_queue: Any, text: str) -> None:
    """A caller's text in it must not keep a worker busy for ever."""

    def refuse(claim: Claim, log: Log, cancelled: Asked) -> Any:
        log(f"looking for {text}")
        raise InvalidInput("embeddings.0.path", f"{text} is not there; pass another")

    queue = open_queue()
    assert outcome(queue, refuse)[0] == 422


def test_what_the_database_refuses_to_hold_ends_its_job(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    finish, bodies = queue.finish, []

    def too_big_at_first(claim: Claim, status_code: int, body: Any, *more: Any) -> bool:
        bodies.append(body)
        if len(bodies) == 1:
            queue._database.write(refused)
        return finish(claim, status_code, body, *more)

    def refused(_: Any) -> None:
        raise DataError("INSERT", {}, Exception("string or blob too big"))

    monkeypatch.setattr(queue, "finish", too_big_at_first)
    status_code, body = outcome(queue, echo)
    assert status_code == 422
    assert "string or blob too big" in body["detail"][0]["msg"]


def test_cancelled_between_steps(queue: JobQueue) -> None:
    with Worker(queue, until_cancelled, heartbeat_s=3600) as worker:
        request_id = queue.submit("app", {})
        until_state(queue, request_id, "IN_PROGRESS")
        queue.cancel(request_id)
        until_state(queue, request_id, "COMPLETED")
        assert queue.result(request_id).status_code == 499
        worker._run = echo
        until_state(queue, queue.submit("app", {}), "COMPLETED")


def test_cancelled_by_another_process(queue: JobQueue, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'queue.sqlite3'}"
    other = JobQueue.open(url, max_length=None, retention_s=3600, lease_s=30)
    with Worker(queue, until_cancelled, heartbeat_s=0.05):
        request_id = other.submit("app", {})
        until_state(other, request_id, "IN_PROGRESS")
        other.cancel(request_id)
        until_state(other, request_id, "COMPLETED")
    assert other.result(request_id).status_code == 499
    other.close()


def test_a_long_job_keeps_its_lease(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'queue.sqlite3'}"
    queue = JobQueue.open(url, max_length=None, retention_s=3600, lease_s=1.0)
    ended = threading.Event()

    def slow(*_: object) -> Any:
        ended.wait(2.5)
        return 200, {}, {}

    request_id = queue.submit("app", {})
    with Worker(queue, slow, heartbeat_s=0.1):
        until_state(queue, request_id, "IN_PROGRESS")
        for _ in range(20):
            assert queue.claim("thief") is None
            time.sleep(0.1)
        ended.set()
        until_state(queue, request_id, "COMPLETED")
    assert queue.result(request_id).status_code == 200
    queue.close()


def test_a_heartbeat_that_fails_is_tried_again(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    heartbeat, beats = queue.heartbeat, threading.Semaphore(0)
    errors: list[Exception] = [KeyError("a bug"), DatabaseUnavailable("away")]

    def fails_twice(claim: Claim) -> bool:
        if errors:
            raise errors.pop()
        ours = heartbeat(claim)
        beats.release()
        return ours

    def lives_on(*_: object) -> Any:
        return 200, {"beats": beats.acquire(timeout=PATIENCE_S)}, {}

    monkeypatch.setattr(queue, "heartbeat", fails_twice)
    request_id = queue.submit("app", {})
    with Worker(queue, lives_on, heartbeat_s=0.01):
        until_state(queue, request_id, "COMPLETED")
    assert queue.result(request_id).body == {"beats": True}


def test_stop_lets_the_job_finish(queue: JobQueue) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def patient(*_: object) -> Any:
        begun.set()
        may_end.wait(PATIENCE_S)
        return 200, {}, {}

    worker = Worker(queue, patient).start()
    running, waiting = queue.submit("app", {}), queue.submit("app", {})
    assert begun.wait(PATIENCE_S)
    threading.Timer(0.1, may_end.set).start()
    assert worker.stop()
    assert queue.result(running).status_code == 200
    assert queue.status(waiting).state == "IN_QUEUE"


def test_stop_returns_a_job_that_would_take_too_long(queue: JobQueue) -> None:
    worker = Worker(queue, until_cancelled).start()
    request_id = queue.submit("app", {})
    until_state(queue, request_id, "IN_PROGRESS")
    assert worker.stop(grace_s=0.05)
    assert queue.status(request_id).position == 0
    with Worker(queue, echo):
        until_state(queue, request_id, "COMPLETED")
    assert queue.result(request_id).status_code == 200


def test_stop_says_when_a_job_does_not_stop(queue: JobQueue) -> None:
    may_end = threading.Event()

    def deaf(*_: object) -> Any:
        may_end.wait(PATIENCE_S)
        return 200, {}, {}

    worker = Worker(queue, deaf).start()
    request_id = queue.submit("app", {})
    until_state(queue, request_id, "IN_PROGRESS")
    assert not worker.stop(grace_s=0.01, give_up_s=0.01)
    may_end.set()
    assert worker.stop()
    assert queue.result(request_id).status_code == 200


def test_an_idle_worker_sweeps(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = threading.Event()
    monkeypatch.setattr("lightfill.engine.fal.worker._SWEEP_S", 0)
    monkeypatch.setattr(queue, "sweep", swept.set)
    with Worker(queue, echo):
        assert swept.wait(PATIENCE_S)


def test_expired_things_go_while_jobs_keep_coming(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightfill.engine.fal.worker._SWEEP_S", 0)
    ran: list[str] = []

    def run(claim: Claim, *_: object) -> Any:
        ran.append("job")
        return 200, {}, {}

    jobs = [queue.submit("app", {}) for _ in range(3)]
    with Worker(queue, run, sweep=lambda: ran.append("sweep")):
        until_state(queue, jobs[-1], "COMPLETED")
    assert ran[:6] == ["sweep", "job"] * 3


@pytest.mark.parametrize(
    ("name", "error"), [("sweep", StorageError("full; free space")), ("claim", KeyError("a bug"))]
)
def test_nothing_ends_a_worker(
    name: str,
    error: Exception,
    queue: JobQueue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("lightfill.engine.fal.worker._RETRY_S", 0.01)
    method, errors = getattr(queue, name), [error]

    def fails_once(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return method(*arguments, **options)

    monkeypatch.setattr(queue, name, fails_once)
    assert outcome(queue, echo) == (200, {"n": 1})
    assert not errors
    assert str(error) in caplog.text


def test_a_database_that_is_away_for_a_while(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Claiming, logging and finishing fail at first; the job is done once all the same."""
    monkeypatch.setattr("lightfill.engine.fal.worker._RETRY_S", 0.01)
    caplog.set_level(logging.CRITICAL)
    for name in ("claim", "log", "finish"):
        monkeypatch.setattr(queue, name, failing_twice(getattr(queue, name)))
    assert outcome(queue, echo) == (200, {"n": 1})


def failing_twice(method: Any) -> Any:
    failures = iter(["away", "away"])

    def call(*arguments: Any, **named: Any) -> Any:
        for reason in failures:
            raise DatabaseUnavailable(reason)
        return method(*arguments, **named)

    return call
