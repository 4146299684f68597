"""npm @fal-ai/client and @fal-ai/serverless-client, unmodified, before a lightfill server."""

import threading
import uuid
from dataclasses import replace
from typing import Any

import pytest
from running_server import RunningServer, running
from scripted_endpoint import OUTPUT, ScriptedEndpoint
from sqlalchemy import select

from lightfill.engine.fal.jobs_table import jobs
from lightfill.engine.fal.settings import Settings

from .conftest import FILES, NEW, JavaScript, Node

WAIT = {**FILES, "prompt": "wait"}


def gate_at(scripted: type[ScriptedEndpoint], word: str) -> Any:
    """Lets the running job go on when the script says so."""
    return lambda text: scripted.gate.set() if text == word else None


@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_subscribe_tells_every_update_and_log(
    javascript: JavaScript, server: RunningServer, scripted: type[ScriptedEndpoint], mode: str
) -> None:
    told = javascript.report(
        "subscribe", server, heard=gate_at(scripted, "step 1/2"), input=WAIT, mode=mode
    )
    assert told["output"] == OUTPUT
    last = told["updates"][-1]
    assert (last["status"], last["logs"]) == ("COMPLETED", ["step 1/2", "step 2/2"])
    states = [update["status"] for update in told["updates"]]
    assert states == sorted(states, key=["IN_QUEUE", "IN_PROGRESS", "COMPLETED"].index)
    running = [each["logs"] for each in told["updates"] if each["status"] == "IN_PROGRESS"]
    assert ["step 1/2"] in running
    if not javascript.is_old:
        assert str(uuid.UUID(told["requestId"])) == told["requestId"] == told["enqueued"][0]


def test_the_queue_from_submit_to_cancel(
    javascript: JavaScript, server: RunningServer, scripted: type[ScriptedEndpoint]
) -> None:
    told = javascript.report("queue", server, heard=gate_at(scripted, "go"), input=WAIT)
    assert told["submitted"]["status"] == "IN_QUEUE"
    assert told["waiting"]["status"] in {"IN_QUEUE", "IN_PROGRESS"}
    assert told["early"]["status"] == 400
    assert told["early"]["body"]["detail"] == "Request is still in progress"
    assert told["completed"]["status"] == "COMPLETED"
    assert [log["message"] for log in told["withLogs"]["logs"]] == ["step 1/2", "step 2/2"]
    assert told["withLogs"]["metrics"]["inference_time"] > 0
    assert told["output"] == OUTPUT
    assert (told["tooLate"]["status"], told["tooLate"]["body"]) == (
        400, {"status": "ALREADY_COMPLETED"},
    )  # fmt: skip


def test_cancel_stops_a_request(javascript: JavaScript, server: RunningServer) -> None:
    told = javascript.report("cancel", server, input=WAIT)
    assert told["status"]["error_type"] == "client_cancelled"
    assert told["result"]["status"] == 499


def test_streams_tell_each_log_once_and_end_with_the_output(
    javascript: JavaScript, server: RunningServer, scripted: type[ScriptedEndpoint]
) -> None:
    told = javascript.report("streams", server, heard=gate_at(scripted, "step 1/2"), input=WAIT)
    assert told["last"] == told["events"][-1] == OUTPUT
    for events in (told["events"], told["statuses"]):
        logs = [log["message"] for event in events for log in event.get("logs") or []]
        assert logs == ["step 1/2", "step 2/2"]
    assert told["completed"]["status"] == "COMPLETED"


def test_run_by_post_and_by_get(
    javascript: JavaScript, server: RunningServer, scripted: type[ScriptedEndpoint]
) -> None:
    told = javascript.report("run", server, input={"prompt": "x", "seed": 3})
    assert told["posted"] == told["gotten"] == OUTPUT
    assert scripted.ran == [{"prompt": "x", "seed": 3}, {"prompt": "x", "seed": "3"}]
    if not javascript.is_old:
        assert str(uuid.UUID(told["requestId"])) == told["requestId"]


def test_a_timeout_cancels_the_request(javascript: JavaScript, server: RunningServer) -> None:
    told = javascript.report("timeout", server, input=WAIT)
    assert "timed out" in told["message"]
    assert told["status"]["error_type"] == "client_cancelled"


def test_a_low_priority_request_lets_normal_ones_pass(node: Node, settings: Settings) -> None:
    with running(replace(settings, workers=0)) as server:
        told = JavaScript(node, NEW, "middleware").report("priority", server)
    assert told["positions"] == [1, 0]


def test_a_full_queue_is_a_429_that_the_newer_client_asks_again(
    javascript: JavaScript, settings: Settings
) -> None:
    with running(replace(settings, workers=0, max_queue_length=1)) as server:
        queue = server.site.queue

        def made_room(_: str) -> None:
            waiting = queue.database.read(
                lambda each: each.execute(select(jobs.c.request_id)).all()
            )
            threading.Timer(0.3, queue.cancel, waiting[0]).start()

        told = javascript.report(
            "full_queue", server, heard=(lambda _: None) if javascript.is_old else made_room
        )
    if javascript.is_old:
        assert (told["status"], told["body"]["error_type"]) == (429, "queue_full")
    else:
        assert told["body"]["status"] == "IN_QUEUE"
