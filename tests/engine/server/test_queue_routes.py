"""The queue on the wire, by the section of the protocol that says what must come back."""

import json
import time
from typing import Any

import httpx2
import pytest
from running_server import ENDPOINT, RunningServer
from scripted_endpoint import OUTPUT, ScriptedEndpoint

QUEUE = "/queue/fal-ai/fast-lightning-sdxl"


def completed(client: httpx2.Client, request_id: str) -> dict[str, Any]:
    for _ in range(500):
        reply = client.get(f"{QUEUE}/requests/{request_id}/status")
        if reply.status_code == 200:
            status: dict[str, Any] = reply.json()
            return status
        assert reply.status_code == 202
        time.sleep(0.01)
    raise AssertionError(f"{request_id} does not complete")


def submitted(client: httpx2.Client, prompt: str, **query: Any) -> dict[str, Any]:
    reply = client.post(f"/queue/{ENDPOINT}", json={"prompt": prompt}, params=query)
    assert reply.status_code == 200
    body: dict[str, Any] = reply.json()
    assert reply.headers["x-fal-request-id"] == body["request_id"]
    return body


def test_a_request_from_submit_to_result(server: RunningServer) -> None:
    with server.client() as client:
        body = submitted(client, "go")
        assert body["status"] == "IN_QUEUE"
        assert {"queue_position", "logs", "metrics"} <= set(body)
        base = f"{server.origin}{QUEUE}/requests/{body['request_id']}"
        assert body["response_url"] == base
        assert body["status_url"] == f"{base}/status"
        assert body["cancel_url"] == f"{base}/cancel"
        status = completed(client, body["request_id"])
        assert status["status"] == "COMPLETED"
        assert status["logs"] is None
        assert status["metrics"]["inference_time"] >= 0
        assert "error" not in status
        result = client.get(body["response_url"])
        assert (result.status_code, result.json()) == (200, OUTPUT)
        assert result.headers["content-type"] == "application/json"


@pytest.mark.parametrize("ending", ["", "/", "/response", "/response/"])
@pytest.mark.parametrize("sub_path", ["", "/inpainting"])
def test_every_spelling_of_a_request_is_answered(
    server: RunningServer, sub_path: str, ending: str
) -> None:
    with server.client() as client:
        request_id = submitted(client, "go")["request_id"]
        completed(client, request_id)
        reply = client.get(f"{QUEUE}{sub_path}/requests/{request_id}{ending}")
        assert (reply.status_code, reply.json()) == (200, OUTPUT)


def test_a_running_request_has_no_result_yet_and_can_be_cancelled(server: RunningServer) -> None:
    with server.client() as client:
        body = submitted(client, "wait")
        early = client.get(body["response_url"])
        assert early.status_code == 400
        assert early.json()["detail"] == "Request is still in progress"
        told = client.put(body["cancel_url"], headers={"content-type": "application/json"})
        assert (told.status_code, told.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
        assert completed(client, body["request_id"])["error_type"] == "client_cancelled"
        assert client.get(body["response_url"]).status_code == 499
        again = client.put(body["cancel_url"])
        assert (again.status_code, again.json()) == (400, {"status": "ALREADY_COMPLETED"})


def test_a_failed_request_is_completed_and_its_result_is_the_error(server: RunningServer) -> None:
    with server.client() as client:
        body = submitted(client, "refuse")
        status = completed(client, body["request_id"])
        assert status["error_type"] == "value_error"
        result = client.get(body["response_url"])
        assert result.status_code == 422
        assert result.json()["detail"][0]["loc"] == ["body", "mask_url"]
        assert result.headers["x-fal-billable-units"] == "0"


def test_the_stream_tells_every_state_and_each_log_once(
    server: RunningServer, scripted: type[ScriptedEndpoint]
) -> None:
    with server.client() as client:
        body = submitted(client, "wait")
        events = []
        with client.stream("GET", f"{body['status_url']}/stream", params={"logs": 1}) as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    events.append(json.loads(line[6:]))
                    if any(log["message"] == "step 1/2" for log in events[-1]["logs"] or []):
                        scripted.gate.set()
        assert events[-1]["status"] == "COMPLETED"
        told = [log for event in events for log in event["logs"] or []]
        assert [log["message"] for log in told] == ["step 1/2", "step 2/2"]
        assert [log["labels"] for log in told] == [{"colour": "red"}, {}]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/requests/unknown", 404), ("GET", "/requests/unknown/status", 404),
        ("GET", "/requests/unknown/status/stream", 404), ("PUT", "/requests/unknown/cancel", 404),
        ("POST", "/another", 404), ("DELETE", "/requests/unknown", 405),
        ("GET", "/requests/unknown/status?logs=perhaps", 422),
        ("GET", "/requests/%C3%99%0D%0A%00/status", 404),
        ("PUT", "/requests/%ED%A0%80/cancel", 404),
    ],
)  # fmt: skip
def test_what_is_not_there(server: RunningServer, method: str, path: str, status: int) -> None:
    with server.client() as client:
        reply = client.request(method, f"{QUEUE}{path}")
        assert reply.status_code == status
        assert {"detail", "status"} & set(reply.json())
        assert reply.headers["x-fal-request-id"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_a_422(server: RunningServer, body: bytes) -> None:
    with server.client() as client:
        reply = client.post(f"/queue/{ENDPOINT}", content=body)
        assert reply.status_code == 422
        assert reply.json()["detail"][0]["loc"][0] == "body"
