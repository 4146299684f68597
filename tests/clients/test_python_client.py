"""PyPI fal-client, unmodified but for the hosts it holds, before a lightfill server.

Both its faces, blocking and asyncio, go through the same calls.
"""

import threading
import time
import uuid
from typing import Any

import fal_client
import pytest
from patched_fal_client import Fal, Make
from running_server import ENDPOINT, running
from scripted_endpoint import OUTPUT, ScriptedEndpoint

from lightfill.engine.fal.settings import Settings

from .conftest import FILES

UNKNOWN = "764cabcf-b745-4b3e-ae38-1200304cf45b"
WAIT = {**FILES, "prompt": "wait"}


def test_run_and_stream(fal: Fal) -> None:
    arguments = {**FILES, "prompt": "x"}
    assert fal.run(ENDPOINT, arguments) == OUTPUT
    assert fal.run("fal-ai/fast-lightning-sdxl", arguments, path="/inpainting") == OUTPUT
    events = fal.stream(ENDPOINT, arguments)
    assert events[-1] == OUTPUT
    logs = [log["message"] for event in events for log in event.get("logs") or []]
    assert logs == ["step 1/2", "step 2/2"]


def test_subscribe_with_logs_and_updates(fal: Fal, scripted: type[ScriptedEndpoint]) -> None:
    ids: list[str] = []
    updates: list[Any] = []

    def told(update: Any) -> None:
        updates.append(update)
        if isinstance(update, fal_client.InProgress) and update.logs:
            scripted.gate.set()

    result = fal.subscribe(
        ENDPOINT, WAIT, with_logs=True, interval=0.02, on_enqueue=ids.append, on_queue_update=told
    )
    assert result == OUTPUT
    assert str(uuid.UUID(ids[0])) == ids[0]
    kinds = [type(update) for update in updates]
    order = [fal_client.Queued, fal_client.InProgress, fal_client.Completed]
    assert kinds == sorted(kinds, key=order.index)
    assert [log["message"] for log in updates[-1].logs] == ["step 1/2", "step 2/2"]
    assert updates[-1].metrics["inference_time"] > 0
    assert updates[-1].error is None


def test_handles_by_submit_and_by_id(fal: Fal, scripted: type[ScriptedEndpoint]) -> None:
    handle = fal.submit(ENDPOINT, WAIT)
    again = fal.get_handle(ENDPOINT, handle.request_id)
    urls = ("response_url", "status_url", "cancel_url")
    assert [getattr(handle, url) for url in urls] == [getattr(again, url) for url in urls]
    assert fal.status(ENDPOINT, handle.request_id) in (
        fal_client.Queued(0), fal_client.InProgress(None),
    )  # fmt: skip
    scripted.gate.set()
    assert fal.done(again.get()) == fal.result(ENDPOINT, handle.request_id) == OUTPUT
    events = fal.done(handle.iter_events(with_logs=True))
    assert isinstance(events[-1], fal_client.Completed)
    assert events[-1] == fal.status(ENDPOINT, handle.request_id, with_logs=True)


def test_cancel_stops_a_request_and_is_refused_afterwards(fal: Fal) -> None:
    handle = fal.submit(ENDPOINT, WAIT)
    fal.cancel(ENDPOINT, handle.request_id)
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        fal.done(handle.get())
    assert (caught.value.status_code, caught.value.error_type) == (499, "client_cancelled")
    with pytest.raises(fal_client.FalClientHTTPError, match="ALREADY_COMPLETED"):
        fal.done(handle.cancel())


def test_a_low_priority_request_lets_normal_ones_pass(make: Make, settings: Settings) -> None:
    with running(Settings(data_dir=settings.data_dir, port=0, workers=0)) as server:
        fal = make(server)
        low = fal.submit(ENDPOINT, {}, priority="low")
        normal = fal.submit(ENDPOINT, {}, priority="normal", hint="anywhere")
        assert fal.done(low.status()) == fal_client.Queued(1)
        assert fal.done(normal.status()) == fal_client.Queued(0)


def test_a_start_timeout_is_the_user_s_and_asked_once(make: Make, settings: Settings) -> None:
    with running(Settings(data_dir=settings.data_dir, port=0, workers=0)) as server:
        fal = make(server)
        for call in (fal.subscribe, fal.run):
            started = time.monotonic()
            with pytest.raises(fal_client.FalClientHTTPError) as caught:
                call(ENDPOINT, {}, start_timeout=1.1)
            assert time.monotonic() - started < 10
            error = caught.value
            assert (error.status_code, error.error_type) == (504, "startup_timeout")
            assert error.response_headers["x-fal-request-timeout-type"] == "user"
            assert error.response_headers["x-fal-request-id"]


def test_a_client_timeout_cancels_the_request(fal: Fal) -> None:
    with pytest.raises(fal_client.FalClientTimeoutError) as caught:
        fal.subscribe(ENDPOINT, WAIT, client_timeout=1.1)
    request_id = caught.value.request_id
    status = fal.status(ENDPOINT, request_id)
    for _ in range(200):
        if isinstance(status, fal_client.Completed):
            break
        time.sleep(0.02)
        status = fal.status(ENDPOINT, request_id)
    assert status.error_type in {"client_cancelled", "startup_timeout"}


def test_wrong_arguments_are_a_list_of_mistakes(painting: Fal) -> None:
    for call in (painting.run, painting.subscribe):
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            call(ENDPOINT, {"image_url": "data:,x", "prompt": "x", "strength": 7})
        assert caught.value.status_code == 422
        assert [item["loc"] for item in caught.value.message] == [
            ["body", "mask_url"], ["body", "strength"],
        ]  # fmt: skip
        assert caught.value.response_headers["x-fal-billable-units"] == "0"


def test_a_failed_request_is_completed_with_its_reason(fal: Fal) -> None:
    handle = fal.submit(ENDPOINT, {"prompt": "refuse"})
    with pytest.raises(fal_client.FalClientHTTPError, match="is not there; pass one"):
        fal.done(handle.get())
    status = fal.done(handle.status())
    assert (status.error, status.error_type) == (
        "body.mask_url: is not there; pass one", "value_error",
    )  # fmt: skip
    with pytest.raises(fal_client.FalClientHTTPError, match="Internal Server Error"):
        fal.run(ENDPOINT, {"prompt": "break"})


def test_what_is_not_there_is_a_404(fal: Fal) -> None:
    for call in (fal.status, fal.result, fal.cancel):
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            call(ENDPOINT, UNKNOWN)
        assert caught.value.status_code == 404
    with pytest.raises(fal_client.FalClientHTTPError, match="lightfill runs") as caught:
        fal.submit("fal-ai/flux/dev", {})
    assert caught.value.status_code == 404


@pytest.mark.parametrize("full", ["at first", "for good"])
def test_a_full_queue_is_asked_again(
    make: Make,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    full: str,
) -> None:
    monkeypatch.setattr(fal_client.client, "_get_retry_delay", lambda *_: 0.02)
    limited = Settings(data_dir=settings.data_dir, port=0, workers=0, max_queue_length=1)
    with running(limited) as server:
        fal = make(server)
        first = fal.submit(ENDPOINT, {})
        if full == "for good":
            with pytest.raises(fal_client.FalClientHTTPError) as caught:
                fal.submit(ENDPOINT, {})
            assert (caught.value.status_code, caught.value.error_type) == (429, "queue_full")
            return
        with server.client() as plain:
            cancelling = threading.Timer(0.05, plain.put, (first.cancel_url,))
            cancelling.start()
            assert fal.done(fal.submit(ENDPOINT, {}).status()) == fal_client.Queued(0)
            cancelling.join()
