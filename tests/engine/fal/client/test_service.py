"""The replies are fal's (fal protocol, section 5): status codes, bodies and headers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightfill.engine.fal.queue import JobQueue, JobStatus
from lightfill.engine.fal.reply import Reply
from lightfill.engine.fal.service import APPLICATION, Service
from lightfill.engine.fal.transport import Order

URL = "https://example.org/queue"
BASE = f"{URL}/fal-ai/fast-lightning-sdxl/requests/"
ORDER = Order(application=APPLICATION, arguments={"prompt": "x"})


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    queue = JobQueue.open(
        f"sqlite:///{tmp_path / 'queue.sqlite3'}", max_length=2, retention_s=60, lease_s=30
    )
    yield queue
    queue.close()


@pytest.fixture
def service(queue: JobQueue) -> Service:
    return Service(queue, URL)


def urls(request_id: str) -> dict[str, str]:
    return {
        "request_id": request_id,
        "response_url": BASE + request_id,
        "status_url": f"{BASE}{request_id}/status",
        "cancel_url": f"{BASE}{request_id}/cancel",
    }


def test_a_request_from_submit_to_result(service: Service, queue: JobQueue) -> None:
    submitted = service.submit(ORDER)
    request_id = submitted.body["request_id"]
    waits = {"status": "IN_QUEUE", "queue_position": 0, "logs": None, "metrics": {}}
    assert submitted == Reply(
        200,
        {**waits, **urls(request_id)},
        {"content-type": "application/json", "x-fal-request-id": request_id},
    )
    assert service.status(request_id).status_code == 202
    assert service.status(request_id).body == submitted.body
    early = service.result(request_id)
    assert (early.status_code, early.body["detail"]) == (400, "Request is still in progress")
    assert early.body.items() >= urls(request_id).items()

    claim = queue.claim("worker")
    assert claim is not None
    assert (claim.application, claim.path) == ("fal-ai/fast-lightning-sdxl", "inpainting")
    running = service.status(request_id, logs=True)
    assert running.status_code == 202
    assert running.body == {"status": "IN_PROGRESS", "logs": [], "metrics": {}, **urls(request_id)}

    queue.finish(claim, 200, {"seed": 1}, {"inference_time": 0.5})
    done = service.status(request_id)
    assert done.status_code == 200
    assert done.body == {
        "status": "COMPLETED", "logs": None, "metrics": {"inference_time": 0.5}, **urls(request_id),
    }  # fmt: skip
    result = service.result(request_id)
    assert (result.status_code, result.body, result.json()) == (200, {"seed": 1}, {"seed": 1})
    assert (result.text, result.content, result.is_success) == ('{"seed":1}', b'{"seed":1}', True)


def test_a_submit_tells_of_a_queued_request_whatever_became_of_it(
    service: Service, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fal's clients know no other answer (section 5.1); a worker may be quicker than the reply."""
    place = JobQueue.place

    def taken_at_once(*args: object, **options: object) -> JobStatus:
        placed = place(*args, **options)  # type: ignore[arg-type]
        claim = queue.claim("worker")
        assert claim is not None
        queue.finish(claim, 422, {"detail": "no"}, {"inference_time": 0.5})
        return placed

    monkeypatch.setattr(JobQueue, "place", taken_at_once)
    body = service.submit(ORDER).body
    assert (body["status"], body["queue_position"]) == ("IN_QUEUE", 0)
    assert (body["logs"], body["metrics"]) == (None, {})
    assert "error" not in body
    assert service.status(body["request_id"]).body["status"] == "COMPLETED"


def test_cancel_has_three_answers(service: Service) -> None:
    request_id = service.submit(ORDER).body["request_id"]
    accepted = service.cancel(request_id)
    assert (accepted.status_code, accepted.body) == (202, {"status": "CANCELLATION_REQUESTED"})
    again = service.cancel(request_id)
    assert (again.status_code, again.body) == (400, {"status": "ALREADY_COMPLETED"})
    unknown = service.cancel("unknown")
    assert (unknown.status_code, unknown.body) == (404, {"status": "NOT_FOUND"})
    status = service.status(request_id).body
    assert (status["status"], status["error_type"]) == ("COMPLETED", "client_cancelled")
    assert status["error"] == "Request cancelled by the client."


def test_owners_see_their_own_requests_only(service: Service) -> None:
    request_id = service.submit(ORDER, owner="a").body["request_id"]
    for call in (service.status, service.result, service.cancel):
        assert call(request_id, owner="b").status_code == 404
    assert service.status(request_id, owner="b").headers["x-fal-billable-units"] == "0"
    assert service.status(request_id, owner="a").status_code == 202


def test_a_full_queue_and_the_caller_s_own_limit(service: Service) -> None:
    assert service.submit(ORDER, max_length=0).is_success
    assert service.submit(ORDER, max_length=0).status_code == 429
    assert service.submit(ORDER).is_success
    full = service.submit(ORDER)
    assert (full.status_code, full.headers["x-fal-error-type"]) == (429, "queue_full")
    assert full.headers["x-fal-request-id"]


def test_headers_in(service: Service, queue: JobQueue) -> None:
    headers = {"x-fal-queue-priority": "low", "x-fal-request-timeout": "0.01"}
    request_id = service.submit(Order(application=APPLICATION, arguments={}, headers=headers)).body[
        "request_id"
    ]
    while (reply := service.status(request_id)).status_code == 202:
        pass
    late = service.result(request_id)
    assert (reply.body["error_type"], late.status_code) == ("startup_timeout", 504)
    assert late.headers["x-fal-request-timeout-type"] == "user"
    for wrong in ({"x-fal-queue-priority": "x"}, {"x-fal-request-timeout": "x"}):
        order = Order(application=APPLICATION, arguments={}, headers=wrong)
        assert service.submit(order).status_code == 422
