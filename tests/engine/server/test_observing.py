"""The access log: a line per request at INFO, and nothing in it that is nobody's business."""

import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from running_server import ENDPOINT, RunningServer

QUEUE = "/queue/fal-ai/fast-lightning-sdxl"
LINE = re.compile(
    r"request_id=(\S+) owner=(\S+) method=(\S+) route=(\S+) status=(\d+) ms=(\d+\.\d)"
)


LOGGER = "lightfill.engine.server.observing"


def lines(caplog: pytest.LogCaptureFixture, count: int) -> list[logging.LogRecord]:
    """The access log's records; a line is written after its reply has been read."""
    for _ in range(500):
        found = [each for each in caplog.records if each.name == LOGGER]
        if len(found) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{len(found)} of {count} lines")


def test_a_line_says_who_asked_for_what_and_how_it_ended(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client("id:secret-key") as client, caplog.at_level(logging.INFO, LOGGER):
        reply = client.post(
            f"/queue/{ENDPOINT}?fal_max_queue_length=7", json={"prompt": "a private wish"}
        )
        request_id = reply.json()["request_id"]
        client.get(f"{QUEUE}/requests/{request_id}/status?logs=1")
        client.get("/nowhere/secret-path")
        submit, status, nowhere = lines(caplog, 3)
    found = LINE.fullmatch(submit.getMessage())
    assert found
    assert found.groups()[:5] == (request_id, "-", "POST", f"/queue/{ENDPOINT}", "200")
    found = LINE.fullmatch(status.getMessage())
    assert found
    assert found[1] == request_id
    assert found[4] == f"{QUEUE}/requests/{{request_id}}/status"
    found = LINE.fullmatch(nowhere.getMessage())
    assert found
    assert found.groups()[2:5] == ("GET", "-", "404")
    text = " ".join(record.getMessage() for record in (submit, status, nowhere))
    assert not re.search(r"secret|wish|logs=|fal_max", text)
    assert (submit.request_id, submit.status) == (request_id, 200)  # type: ignore[attr-defined]


def test_a_callers_text_cannot_forge_lines(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client() as client, caplog.at_level(logging.INFO, LOGGER):
        for name in ("a%0Arequest_id=forged", "%E2%82%AC", "a%20status=200", "x" * 300):
            reply = client.get(f"{QUEUE}/requests/{name}/status")
            assert reply.status_code == 404
            assert re.fullmatch(r"[!-~]+", reply.headers["x-fal-request-id"])
        client.request("PURGE", "/health")
        for record in lines(caplog, 5):
            assert "\n" not in record.getMessage()
            assert "forged" not in record.getMessage()


@pytest.mark.parametrize(("level", "expected"), [("info", True), (None, False)])
def test_serve_logs_requests_where_asked(tmp_path: Path, level: str | None, expected: bool) -> None:
    code = "from lightfill.engine.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", "0", "--workers", "0"]
    command += [] if level is None else ["--log-level", level]
    environment = {**os.environ, "LIGHTFILL_DATA_DIR": str(tmp_path), "COLUMNS": "300"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr
        said = ""
        while not (found := re.search(r"http://\S+:\d+", said)):
            said += process.stderr.readline()
        for _ in range(500):
            try:
                httpx2.get(f"{found[0]}/health").raise_for_status()
                break
            except httpx2.TransportError:
                time.sleep(0.02)
        process.terminate()
        said += process.stderr.read()
    assert ("route=/health status=200" in said) == expected


def test_another_level_is_refused() -> None:
    code = "from lightfill.engine.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--log-level", "loud"],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    assert done.returncode != 0
    assert (
        "LIGHTFILL_LOG_LEVEL: must be one of critical, error, warning, info, debug" in done.stderr
    )
