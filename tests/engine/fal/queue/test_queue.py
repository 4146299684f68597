"""What fal's protocol (section 5) says about queued requests, on both databases."""

import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from lightfill.engine.errors import InvalidInput, JobNotFound, QueueFull, StillInProgress
from lightfill.engine.fal import claims, rows, transitions
from lightfill.engine.fal.job import Claim
from lightfill.engine.fal.queue import JobQueue

APPLICATION = "fal-ai/fast-lightning-sdxl"


def submit(queue: JobQueue, **options: Any) -> str:
    return queue.submit(APPLICATION, {"prompt": "a tiger"}, **options)


def claimed(queue: JobQueue, worker: str = "worker") -> Claim:
    claim = queue.claim(worker)
    assert claim is not None
    return claim


def test_a_job_goes_through_its_states(queue: JobQueue) -> None:
    request_id = queue.submit(
        APPLICATION,
        {"prompt": "\u2603 tiger"},
        path="inpainting",
        owner="me",
        webhook_url="https://x",
    )
    status = queue.status(request_id)
    assert (status.state, status.position, status.logs, status.metrics) == ("IN_QUEUE", 0, None, {})
    assert status.application == APPLICATION
    with pytest.raises(StillInProgress, match=r"^Request is still in progress$"):
        queue.result(request_id)

    claim = claimed(queue)
    assert claim.request_id == request_id
    assert claim.arguments == {"prompt": "\u2603 tiger"}
    assert (claim.application, claim.path) == (APPLICATION, "inpainting")
    assert (claim.owner, claim.webhook_url, claim.worker) == ("me", "https://x", "worker")
    status = queue.status(request_id)
    assert (status.state, status.position) == ("IN_PROGRESS", None)

    assert queue.finish(claim, 200, {"seed": 7}, {"inference_time": 1.5})
    status = queue.status(request_id)
    assert (status.state, status.position, status.error) == ("COMPLETED", None, None)
    assert status.metrics == {"inference_time": 1.5}
    result = queue.result(request_id)
    assert (result.status_code, result.body, result.error_type) == (200, {"seed": 7}, None)


def test_a_claim_says_how_long_the_job_waited(queue: JobQueue, clock: Any) -> None:
    submit(queue)
    clock.now += 2.5
    claim = claimed(queue)
    assert (claim.number, claim.waited_s) == (1, 2.5)
    queue.give_back(claim)
    clock.now += 1.5
    again = claimed(queue)
    assert (again.number, again.waited_s) == (2, 4.0)


def test_normal_before_low_and_old_before_new(queue: JobQueue) -> None:
    low = [submit(queue, priority="low") for _ in range(3)]
    normal = [submit(queue) for _ in range(3)]
    order = [*normal, *low]
    assert [queue.status(job).position for job in order] == list(range(6))
    assert [claimed(queue).request_id for _ in order] == order
    assert queue.claim("worker") is None


def test_positions_over_many_blocks_with_gaps(queue: JobQueue) -> None:
    jobs = 330 if queue._database.is_sqlite else 100  # only SQLite counts by blocks of 256
    with ThreadPoolExecutor(32) as threads:
        submitted = threads.map(
            lambda n: submit(queue, priority="low" if n % 3 else "normal"), range(jobs)
        )
        list(threads.map(queue.cancel, list(submitted)[5 : jobs - 30 : 7]))
    for _ in range(20):
        claimed(queue)
    order = []
    while (claim := queue.claim("worker")) is not None:
        order.append(claim)
    for claim in order:
        assert queue.give_back(claim)
    assert queue.length() == len(order)
    for place in range(0, len(order), 5):
        assert queue.status(order[place].request_id).position == place


def test_an_owner_sees_own_requests_only(queue: JobQueue) -> None:
    request_id = submit(queue, owner="me")
    assert queue.status(request_id, owner="me").state == "IN_QUEUE"
    for look in (queue.status, queue.result, queue.cancel):
        with pytest.raises(JobNotFound):
            look(request_id, owner="somebody else")
    assert queue.status(request_id).state == "IN_QUEUE"
    with pytest.raises(JobNotFound):
        queue.status(submit(queue), owner="me")


def test_unknown_requests(queue: JobQueue) -> None:
    for look in (queue.status, queue.result, queue.cancel):
        with pytest.raises(JobNotFound) as raised:
            look("764cabcf-b745-4b3e-ae38-1200304cf45b")
        assert raised.value.http_status == 404
    with pytest.raises(JobNotFound):
        queue.wait("764cabcf-b745-4b3e-ae38-1200304cf45b", 1)


def test_request_ids_are_used_once(queue: JobQueue) -> None:
    assert submit(queue, request_id="mine") == "mine"
    with pytest.raises(InvalidInput, match="request_id"):
        submit(queue, request_id="mine")
    assert queue.length() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": "high"},
        {"start_timeout": 0},
        {"start_timeout": -1},
        {"start_timeout": math.nan},
    ],
)
def test_wrong_options(queue: JobQueue, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        submit(queue, **wrong)


@pytest.mark.parametrize("wrong", [{"image": object()}, {"strength": math.inf}])
def test_arguments_are_json(queue: JobQueue, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="arguments: are not JSON"):
        queue.submit(APPLICATION, wrong)


@pytest.mark.parametrize("field", ["owner", "webhook_url", "path", "request_id"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800"], ids=["NUL", "half a pair"])
def test_text_that_no_database_holds(queue: JobQueue, field: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        submit(queue, **{field: text})
    with pytest.raises(JobNotFound):
        queue.status(text)
    assert queue.length() == 0


@pytest.mark.parametrize("text", ["a\0b", "\ud800"], ids=["NUL", "half a pair"])
def test_such_text_in_arguments_logs_errors_and_results(queue: JobQueue, text: str) -> None:
    """Callers choose it, and it must not keep a job from ending."""
    request_id = queue.submit(APPLICATION, {"prompt": text, text: [text]})
    claim = claimed(queue)
    assert claim.arguments == {"prompt": text, text: [text]}
    queue.log(claim, f"painting {text}")
    body = {"detail": f"no {text}", "error_type": "value_error"}
    assert queue.finish(claim, 422, body, {})
    status = queue.status(request_id, with_logs=True)
    shown = text.replace("\0", "\ufffd").replace("\ud800", "\ufffd")
    assert [entry["message"] for entry in status.logs or []] == [f"painting {shown}"]
    assert status.error == f"no {shown}"
    assert queue.result(request_id).body == body


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def test_arguments_nested_too_deep_are_refused(queue: JobQueue) -> None:
    with pytest.raises(InvalidInput, match="nested too deep"):
        queue.submit(APPLICATION, {"unknown": nested(100_000)})


def test_arguments_that_cannot_be_read_back_hold_up_nobody(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """json writes a little deeper than it reads, the less the deeper its caller's own stack is."""

    def loads(text: str) -> Any:
        if "deep" in text:
            raise RecursionError
        return json.loads(text)

    deep = [queue.submit(APPLICATION, {"deep": nested(3)}) for _ in range(2)]
    timely = submit(queue)
    monkeypatch.setattr(rows, "json", SimpleNamespace(loads=loads))
    assert claimed(queue).request_id == timely
    assert queue.claim("worker") is None
    monkeypatch.undo()
    for request_id in deep:
        result = queue.result(request_id)
        assert (result.status_code, result.body["detail"][0]["loc"]) == (422, ["body", "arguments"])


def test_bounded(open_queue: Any) -> None:
    queue = open_queue(max_length=2)
    submit(queue), submit(queue, priority="low")
    with pytest.raises(QueueFull) as raised:
        submit(queue)
    assert raised.value.http_status == 429
    claimed(queue)
    submit(queue)


def test_callers_bound_is_fals(queue: JobQueue) -> None:
    """Refused "when more than n requests wait" (section 5.6)."""
    submit(queue, max_length=0)
    with pytest.raises(QueueFull):
        submit(queue, max_length=0)
    submit(queue, max_length=1)


def test_requests_past_their_deadline_make_room(open_queue: Any, clock: Any) -> None:
    queue = open_queue(max_length=1, clock=clock)
    late = submit(queue, start_timeout=5)
    clock.now += 5
    submit(queue)
    assert queue.status(late).error_type == "startup_timeout"


def test_start_timeout_while_no_worker_is_free(queue: JobQueue, clock: Any) -> None:
    request_id = submit(queue, start_timeout=5)
    clock.now += 4.9
    assert queue.status(request_id).state == "IN_QUEUE"
    clock.now += 0.2
    assert queue.status(request_id).state == "COMPLETED"
    assert queue.status(request_id).error_type == "startup_timeout"
    assert queue.result(request_id).status_code == 504
    assert queue.claim("worker") is None
    assert queue.cancel(request_id) == "ALREADY_COMPLETED"


def test_a_late_request_is_never_handed_out(queue: JobQueue, clock: Any) -> None:
    late, timely = submit(queue, start_timeout=5), submit(queue)
    clock.now += 6
    assert claimed(queue).request_id == timely
    assert queue.result(late).status_code == 504


def test_nor_when_many_are_late(
    queue: JobQueue, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transitions, "_AT_ONCE", 2)
    late = [submit(queue, start_timeout=5) for _ in range(5)]
    timely = submit(queue)
    clock.now += 6
    assert claimed(queue).request_id == timely
    assert {queue.result(request_id).status_code for request_id in late} == {504}


def test_a_started_request_has_no_start_deadline(queue: JobQueue, clock: Any) -> None:
    """Once processing has begun the deadline no longer applies (section 8), even if it restarts."""
    request_id = submit(queue, start_timeout=5)
    claimed(queue)
    clock.now += 31
    assert queue.status(request_id).state == "IN_QUEUE"
    clock.now += 100
    assert claimed(queue).request_id == request_id


def test_cancelled_in_the_queue(queue: JobQueue) -> None:
    request_id = submit(queue)
    assert queue.cancel(request_id) == "CANCELLATION_REQUESTED"
    assert queue.claim("worker") is None
    assert queue.status(request_id).error_type == "client_cancelled"
    result = queue.result(request_id)
    assert result.status_code == 499
    assert result.body == {
        "detail": "Request cancelled by the client.",
        "error_type": "client_cancelled",
    }
    assert queue.cancel(request_id) == "ALREADY_COMPLETED"


def test_cancelled_while_running(queue: JobQueue) -> None:
    request_id = submit(queue)
    claim = claimed(queue)
    assert queue.heartbeat(claim)
    for _ in range(2):
        assert queue.cancel(request_id) == "CANCELLATION_REQUESTED"
    assert not queue.heartbeat(claim)
    assert queue.status(request_id).state == "IN_PROGRESS"
    assert queue.finish(claim, 200, {"seed": 1}, {}), "the request may still complete"
    assert queue.result(request_id).status_code == 200


def test_cancelled_and_its_worker_died(queue: JobQueue, clock: Any) -> None:
    request_id = submit(queue)
    claim = claimed(queue)
    queue.cancel(request_id)
    clock.now += 31
    assert queue.result(request_id).status_code == 499
    assert not queue.finish(claim, 200, {}, {})


def test_a_lost_lease_comes_back_to_its_place(queue: JobQueue, clock: Any) -> None:
    first, second = submit(queue), submit(queue)
    lost = claimed(queue, "dies")
    clock.now += 29
    assert queue.heartbeat(lost)
    clock.now += 29
    assert queue.status(first).state == "IN_PROGRESS"
    clock.now += 2
    again = claimed(queue, "lives")
    assert again.request_id == first
    assert not queue.heartbeat(lost)
    assert not queue.finish(lost, 200, {"by": "dies"}, {})
    queue.log(lost, "from the dead")
    assert queue.finish(again, 200, {"by": "lives"}, {})
    assert queue.result(first).body == {"by": "lives"}
    messages = [entry["message"] for entry in queue.status(first, with_logs=True).logs or []]
    assert messages == ["worker dies fell silent; the request runs again"]
    assert claimed(queue).request_id == second


def test_a_late_heartbeat_keeps_a_job_nobody_took(queue: JobQueue, clock: Any) -> None:
    submit(queue)
    claim = claimed(queue)
    clock.now += 31
    assert queue.heartbeat(claim)
    assert queue.claim("other") is None


def test_a_request_that_kills_workers_fails(open_queue: Any, clock: Any) -> None:
    queue = open_queue(clock=clock, max_losses=3)
    request_id = submit(queue)
    for _ in range(3):
        claimed(queue)
        clock.now += 31
    assert queue.claim("worker") is None
    result = queue.result(request_id)
    assert (result.status_code, result.error_type) == (503, "runner_disconnected")


def test_given_back_jobs_are_not_held_against_them(open_queue: Any, clock: Any) -> None:
    queue = open_queue(clock=clock, max_losses=1)
    request_id = submit(queue)
    for _ in range(3):
        claim = claimed(queue)
        assert queue.give_back(claim)
        assert not queue.give_back(claim)
    assert queue.status(request_id).position == 0
    assert not queue.finish(claim, 200, {}, {})


def test_a_cancelled_job_is_not_given_back(queue: JobQueue) -> None:
    request_id = submit(queue)
    claim = claimed(queue)
    queue.cancel(request_id)
    assert queue.give_back(claim)
    assert queue.result(request_id).status_code == 499


def test_logs_have_fals_shape(queue: JobQueue) -> None:
    request_id = submit(queue)
    claim = claimed(queue)
    queue.log(claim, "step 1/4")
    queue.log(claim, "careful", "WARN", {"preview": "data:,"})
    assert queue.status(request_id).logs is None
    logs = queue.status(request_id, with_logs=True).logs
    assert logs == [
        {
            "timestamp": "2023-11-14T22:13:20.000000",
            "message": message,
            "level": level,
            "source": "USER",
            "labels": labels,
        }
        for message, level, labels in [
            ("step 1/4", "INFO", {}),
            ("careful", "WARN", {"preview": "data:,"}),
        ]
    ]
    queue.finish(claim, 200, {}, {})
    assert queue.status(request_id, with_logs=True).logs == logs
    assert queue.status(submit(queue), with_logs=True).logs == []


@pytest.mark.parametrize(
    ("body", "error", "error_type"),
    [
        (
            {"detail": [{"type": "missing", "loc": ["body", "prompt"], "msg": "Field required"}]},
            "body.prompt: Field required",
            "missing",
        ),
        ({"detail": "no", "error_type": "internal_error"}, "no", "internal_error"),
        ({}, "Invalid status code: 422", "internal_error"),
    ],
)
def test_failures_are_told_in_the_status(
    queue: JobQueue, body: dict[str, Any], error: str, error_type: str
) -> None:
    request_id = submit(queue)
    queue.finish(claimed(queue), 422, body, {})
    status = queue.status(request_id)
    assert (status.state, status.error, status.error_type) == ("COMPLETED", error, error_type)
    assert queue.result(request_id).body == body


@pytest.mark.parametrize("body", [{"image": object()}, {"loss": math.nan}])
def test_results_are_json(queue: JobQueue, body: dict[str, Any]) -> None:
    request_id = submit(queue)
    claim = claimed(queue)
    with pytest.raises((TypeError, ValueError)):
        queue.finish(claim, 200, body, {})
    assert queue.status(request_id).state == "IN_PROGRESS"
    assert queue.finish(claim, 500, {}, {})


def test_completed_jobs_are_swept(queue: JobQueue, clock: Any) -> None:
    done, running, waiting = submit(queue), submit(queue), submit(queue)
    queue.finish(claimed(queue), 200, {}, {})
    claim = claimed(queue)
    clock.now += 3599
    assert queue.heartbeat(claim)
    assert queue.sweep() == 0
    clock.now += 1
    assert queue.sweep() == 1
    with pytest.raises(JobNotFound):
        queue.status(done)
    assert queue.status(running).state == "IN_PROGRESS"
    assert queue.status(waiting).state == "IN_QUEUE"


def test_many_jobs_are_swept(queue: JobQueue, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_SWEPT_AT_ONCE", 20)
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda _: queue.cancel(submit(queue)), range(50)))
    clock.now += 3600
    assert queue.sweep() == 50


def test_wait_ends_with_a_change(queue: JobQueue) -> None:
    request_id = submit(queue)
    seen = queue.status(request_id)
    started = time.monotonic()
    queue.wait(request_id, 0.2)
    assert time.monotonic() - started >= 0.2, "nothing changed"

    threading.Timer(0.1, queue.claim, ["worker"]).start()
    queue.wait(request_id, 60)
    assert queue.status(request_id).state == "IN_PROGRESS"
    queue.wait(request_id, 60, since=seen)  # it has changed since
    assert time.monotonic() - started < 30


def test_wait_ends_with_a_change_by_another_process(open_queue: Any) -> None:
    here, there = open_queue(), open_queue()  # events do not reach from one to the other
    request_id = submit(here)
    threading.Timer(0.1, there.claim, ["worker"]).start()
    started = time.monotonic()
    here.wait(request_id, 60)
    assert time.monotonic() - started < 30
    assert here.status(request_id).state == "IN_PROGRESS"


def test_a_completed_job_is_not_waited_for(queue: JobQueue) -> None:
    request_id = submit(queue)
    queue.cancel(request_id)
    started = time.monotonic()
    queue.wait(request_id, 60)
    queue.wait(request_id, 60, since=queue.status(request_id))
    assert time.monotonic() - started < 30


def test_jobs_outlive_the_queue_object(open_queue: Any) -> None:
    first = open_queue()
    waiting, running, done = (submit(first) for _ in range(3))
    claims = [claimed(first), claimed(first)]
    first.give_back(claims[0])
    first.close()
    second = open_queue()
    assert [second.status(job).state for job in (waiting, running, done)] == [
        "IN_QUEUE", "IN_PROGRESS", "IN_QUEUE",
    ]  # fmt: skip
    assert second.finish(claims[1], 200, {"seed": 1}, {})
    assert second.result(running).body == {"seed": 1}
