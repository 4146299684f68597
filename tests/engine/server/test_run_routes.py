"""Callers who wait on the line: what comes back, and what their leaving does."""

import json
import socket
import time

import pytest
from running_server import ENDPOINT, RunningServer
from scripted_endpoint import OUTPUT, ScriptedEndpoint
from sqlalchemy import select

from lightfill.engine.fal.jobs_table import jobs

RUN = f"/run/{ENDPOINT}"
FILES = {"image_url": "data:,x", "mask_url": "data:,x"}


def wait_for(server: RunningServer, state: str, error_type: str | None = None) -> None:
    """Until the one job that was submitted is in that state."""
    only = select(jobs.c.state, jobs.c.error_type)
    for _ in range(500):
        found = server.site.queue._database.read(lambda connection: connection.execute(only).all())
        if found == [(state, error_type)]:
            return
        time.sleep(0.01)
    raise AssertionError(found)


@pytest.mark.parametrize("ending", ["", "/"])
def test_run_answers_with_the_output(server: RunningServer, ending: str) -> None:
    with server.client() as client:
        reply = client.post(RUN + ending, json={"prompt": "go"})
    assert (reply.status_code, reply.json()) == (200, OUTPUT)
    assert reply.headers["x-fal-request-id"]


def test_get_has_its_arguments_in_the_query(
    server: RunningServer, scripted: type[ScriptedEndpoint]
) -> None:
    with server.client() as client:
        reply = client.get(RUN, params={"prompt": "go", "seed": "3"})
    assert (reply.status_code, reply.json()) == (200, OUTPUT)
    assert scripted.ran == [{"prompt": "go", "seed": "3"}]


@pytest.mark.parametrize(("prompt", "status"), [("refuse", 422), ("break", 500)])
def test_run_answers_with_the_requests_own_error(
    server: RunningServer, prompt: str, status: int
) -> None:
    with server.client() as client:
        reply = client.post(RUN, json={"prompt": prompt})
    assert reply.status_code == status
    assert "secret" not in reply.text


def test_a_stream_of_wrong_arguments_is_a_422_before_it_begins(server: RunningServer) -> None:
    with server.client() as client:
        reply = client.post(f"{RUN}/stream", json={"prompt": "go"})
    assert reply.status_code == 422
    missing = [item["loc"] for item in reply.json()["detail"]]
    assert missing == [["body", "image_url"], ["body", "mask_url"]]
    assert server.site.queue.length() == 0


def test_the_stream_ends_with_the_output(server: RunningServer) -> None:
    with server.client() as client:
        reply = client.post(f"{RUN}/stream", json={**FILES, "prompt": "go"})
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data")]
    assert events[-1] == OUTPUT
    assert events[-2]["status"] == "COMPLETED"
    logs = [log["message"] for event in events[:-1] for log in event["logs"]]
    assert logs == ["step 1/2", "step 2/2"]


@pytest.mark.parametrize("ending", ["", "/stream"])
def test_a_caller_who_leaves_cancels_the_request(server: RunningServer, ending: str) -> None:
    body = json.dumps({**FILES, "prompt": "wait"}).encode()
    head = f"POST {RUN}{ending} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.site.settings.port)) as line:
        line.sendall(head.encode() + body)
        wait_for(server, "IN_PROGRESS")
    wait_for(server, "COMPLETED", "client_cancelled")


def test_the_start_timeout_is_a_504_of_the_callers_own(
    server: RunningServer, scripted: type[ScriptedEndpoint]
) -> None:
    with server.client() as client:
        busy = client.post(f"/queue/{ENDPOINT}", json={"prompt": "wait"})
        assert busy.status_code == 200
        headers = {"x-fal-request-timeout": "0.2"}
        reply = client.post(RUN, json={"prompt": "go"}, headers=headers)
        assert reply.status_code == 504
        assert reply.headers["x-fal-request-timeout-type"] == "user"
        assert reply.json()["error_type"] == "startup_timeout"
        scripted.gate.set()


def test_another_endpoint_is_not_found(server: RunningServer) -> None:
    with server.client() as client:
        reply = client.post("/run/fal-ai/another", json={})
    assert reply.status_code == 404
    detail = f"Path /run/fal-ai/another not found; lightfill runs {ENDPOINT}"
    assert reply.json() == {"detail": detail}
