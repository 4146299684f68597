"""`lightfill serve` as a process: how it starts, how it stops, and what survives kill -9."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fal_requests import SMALL
from running_server import ENDPOINT
from server_process import ServerProcess

from lightfill.engine.errors import InvalidInput, ServerUnavailable
from lightfill.engine.fal.settings import Settings
from lightfill.engine.server.serve import bound

TINY = {
    **SMALL,
    "image_size": {"width": 64, "height": 64},
    "num_inference_steps": 1,
    "enable_safety_checker": False,
}
REQUESTS = "/queue/fal-ai/fast-lightning-sdxl/requests"
SLOW = """
import time
from lightfill.engine.fal.endpoint import Endpoint
def run(self, arguments, *, on_log, cancelled, owner):
    from lightfill.engine.errors import Cancelled
    for step in range(int(arguments["steps"])):
        on_log(f"step {step}")
        time.sleep(0.05)
        if cancelled(): raise Cancelled("cancelled")
    return {"images": [], "steps": arguments["steps"]}
Endpoint.run = run
"""


def submit(client: httpx2.Client, arguments: dict[str, Any]) -> str:
    reply = client.post(f"/queue/{ENDPOINT}", json=arguments)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["request_id"])


def until_completed(client: httpx2.Client, request_ids: list[str]) -> None:
    left, give_up = set(request_ids), time.monotonic() + 120
    while left:
        assert time.monotonic() < give_up, f"{len(left)} are not completed"
        left -= {
            each for each in left if client.get(f"{REQUESTS}/{each}/status").status_code == 200
        }
        time.sleep(0.05)


def refused(*options: str, **environment: str) -> tuple[int, str]:
    code = "from lightfill.engine.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", *options], capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "300", **environment}, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_sigterm_lets_the_running_job_finish_and_keeps_the_waiting_one(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, code=SLOW) as first, first.client() as client:
        first.until_ready()
        running, waiting = (submit(client, {"steps": count}) for count in (20, 21))
        until_in_progress(client, running)
        assert first.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    with ServerProcess(tmp_path, "--workers", "0") as second, second.client() as client:
        assert client.get(f"{REQUESTS}/{running}").json()["steps"] == 20
        status = client.get(f"{REQUESTS}/{waiting}/status").json()
        assert (status["status"], status["queue_position"]) == ("IN_QUEUE", 0)


def test_a_job_that_outlasts_the_grace_goes_back_to_the_queue(tmp_path: Path) -> None:
    slow = {"code": SLOW, "LIGHTFILL_SHUTDOWN_GRACE_S": "0.2"}
    with ServerProcess(tmp_path, **slow) as first, first.client() as client:
        first.until_ready()
        running = submit(client, {"steps": 400})
        until_in_progress(client, running)
        start = time.monotonic()
        first.end(signal.SIGINT)
        assert time.monotonic() - start < 15
    with ServerProcess(tmp_path, "--workers", "0") as second, second.client() as client:
        assert client.get(f"{REQUESTS}/{running}/status").json()["status"] == "IN_QUEUE"


def test_streams_and_runs_are_let_go_when_the_server_stops(tmp_path: Path) -> None:
    slow = {"code": SLOW, "LIGHTFILL_SHUTDOWN_GRACE_S": "0.2"}
    with ServerProcess(tmp_path, **slow) as server, server.client() as client:
        server.until_ready()
        running = submit(client, {"steps": 400})
        until_in_progress(client, running)
        replies: list[httpx2.Response] = []

        def wait() -> None:
            with server.client() as waiting:
                replies.append(waiting.post(f"/run/{ENDPOINT}", json={"steps": 1}))

        thread = threading.Thread(target=wait)
        thread.start()
        for _ in range(200):
            if client.get("/ready").json().get("waiting") == 1:
                break
            time.sleep(0.02)
        with client.stream("GET", f"{REQUESTS}/{running}/status/stream") as stream:
            server.process.send_signal(signal.SIGTERM)
            for _ in stream.iter_lines():
                pass
        thread.join(30)
        (reply,) = replies
        assert reply.status_code == 503
        assert reply.json()["error_type"] == "runner_disconnected"
        server.end(signal.SIGTERM)


def until_in_progress(client: httpx2.Client, request_id: str) -> None:
    for _ in range(500):
        if client.get(f"{REQUESTS}/{request_id}/status").json()["status"] == "IN_PROGRESS":
            return
        time.sleep(0.02)
    raise AssertionError


@pytest.mark.slow  # two servers, and 100 pictures of the embedded model
def test_of_100_jobs_at_a_kill_none_is_lost_and_none_is_done_twice(tmp_path: Path) -> None:
    quick = {"LIGHTFILL_LEASE_S": "1", "LIGHTFILL_HEARTBEAT_S": "0.2"}
    with ServerProcess(tmp_path, **quick) as first, first.client() as client:
        first.until_ready()
        ids = [submit(client, {**TINY, "seed": seed}) for seed in range(100)]
        until_completed(client, ids[:5])
        first.end(signal.SIGKILL)
    with ServerProcess(tmp_path, **quick) as second, second.client() as client:
        until_completed(client, ids)
        results = [client.get(f"{REQUESTS}/{each}") for each in ids]
        assert [reply.status_code for reply in results] == [200] * 100
        assert [reply.json()["seed"] for reply in results] == list(range(100))
        assert second.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    runs_lost = len(list((tmp_path / "files").glob("*/*.png"))) - 100
    assert runs_lost in (0, 1)  # the one the kill interrupted may have stored its picture already


def test_it_is_ready_only_when_the_model_is_warm(tmp_path: Path) -> None:
    held = """
import time
from lightfill.engine.fal.endpoint import Endpoint
Endpoint.warm_up = lambda self: time.sleep(1)
"""
    with ServerProcess(tmp_path, code=held) as server, server.client() as client:
        early = client.get("/ready")
        assert (early.status_code, early.json()) == (503, {"status": "warming up"})
        assert client.get("/health").status_code == 200
        server.until_ready()


def test_a_model_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--bundle", str(tmp_path / "none")) as server:
        with server.client() as client:
            for _ in range(500):
                reply = client.get("/ready")
                if reply.json()["status"] == "failed":
                    break
                time.sleep(0.02)
            assert reply.status_code == 503
            assert str(tmp_path / "none") in reply.json()["detail"]
        server.end(signal.SIGTERM)
        assert any("cannot be run" in line for line in server.said)


def test_an_address_in_use_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, said = refused("--port", port, "--data-dir", str(tmp_path))
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "--port" in said


def test_keys_cannot_be_off_where_others_reach_the_server() -> None:
    status, said = refused("--host", "0.0.0.0", "--no-auth", "--port", "0")
    assert status == 2
    assert "lightfill keys create" in said


@pytest.mark.parametrize(
    ("host", "asks"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True)],
)
def test_keys_are_asked_for_unless_only_this_machine_gets_through(host: str, asks: bool) -> None:
    listening, settings = bound(Settings(host=host, port=0))
    with listening:
        assert settings.authentication is asks
        assert settings.port == listening.getsockname()[1]
        assert settings.public_url is not None
        assert settings.public_url.endswith(f":{settings.port}")


def test_wrong_addresses_are_ours_to_report() -> None:
    with pytest.raises(ServerUnavailable, match="cannot listen"):
        bound(Settings(host="203.0.113.7", port=0, authentication=True))
    with pytest.raises(ServerUnavailable, match="cannot listen"):
        bound(Settings(host="no-such-host.invalid", port=0, authentication=True))
    with pytest.raises(InvalidInput, match="LIGHTFILL_PORT"):
        Settings(port=65_536)


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\nfrom lightfill.engine.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "serve"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "lightfill[serve]" in done.stderr
    assert json.dumps(done.stdout) == '""'
