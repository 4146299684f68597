"""What goes wrong is told as fal's client tells it, in this process and by a server."""

import pickle
import threading
import time
from types import ModuleType
from typing import Any

import pytest
from scripted_endpoint import OUTPUT

from lightfill.engine.errors import DatabaseUnavailable, LightfillError
from lightfill.engine.fal import retries
from lightfill.engine.fal.database import Database
from lightfill.engine.fal.service import Service
from lightfill.engine.fal.settings import Settings

from .conftest import Somewhere

APP = "fal-ai/fast-lightning-sdxl/inpainting"
UNKNOWN = "764cabcf-b745-4b3e-ae38-1200304cf45b"


@pytest.fixture
def fal(somewhere: Somewhere) -> ModuleType:
    return somewhere.start()


@pytest.fixture
def demo_fal(demo_somewhere: ModuleType) -> ModuleType:
    return demo_somewhere


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue is asked again at once, not for 51 s."""
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.0)


def test_a_refused_request_is_a_422_with_fal_s_list(demo_fal: ModuleType) -> None:
    for call in (demo_fal.run, demo_fal.subscribe):
        with pytest.raises(demo_fal.FalClientHTTPError) as caught:
            call(APP, {"image_url": "data:,x", "strength": 7})
        error = caught.value
        assert error.status_code == 422
        assert [item["loc"] for item in error.message] == [
            ["body", "mask_url"], ["body", "prompt"], ["body", "strength"],
        ]  # fmt: skip
        assert error.message[0]["type"] == "missing"
        assert error.response.json() == {"detail": error.message}
        assert error.response.status_code == 422
        assert error.response_headers["x-fal-billable-units"] == "0"
        assert "x-fal-request-id" in error.response_headers
        assert str(error) == str(error.message)
        assert isinstance(error, LightfillError)
        assert repr(pickle.loads(pickle.dumps(error))) == repr(error)


def test_a_malformed_webhook_is_refused_and_an_empty_one_is_none(
    fal: ModuleType, scripted: Any
) -> None:
    """fal_client sends no empty one; a private one is for the server that delivers to judge."""
    with pytest.raises(fal.FalClientHTTPError) as caught:
        fal.submit(APP, {"prompt": "go"}, webhook_url="ftp://a.test/")
    assert caught.value.status_code == 422
    assert caught.value.message[0]["loc"] == ["query", "fal_webhook"]
    for url in ("", "http://127.0.0.1:1/told"):
        assert fal.submit(APP, {"prompt": "go"}, webhook_url=url).get() == OUTPUT


def test_a_failed_request_is_completed_with_the_reason_in_its_status(
    fal: ModuleType, scripted: Any
) -> None:
    handle = fal.submit(APP, {"prompt": "refuse"})
    with pytest.raises(fal.FalClientHTTPError) as caught:
        handle.get()
    assert caught.value.message == [
        {"type": "value_error", "loc": ["body", "mask_url"], "msg": "is not there; pass one"}
    ]
    status = handle.status()
    assert isinstance(status, fal.Completed)
    assert (status.error, status.error_type) == (
        "body.mask_url: is not there; pass one", "value_error",
    )  # fmt: skip


def test_a_fault_of_ours_is_a_500_that_tells_nothing(
    fal: ModuleType, scripted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(fal.FalClientHTTPError) as caught:
        fal.run(APP, {"prompt": "break"})
    assert (caught.value.status_code, caught.value.message) == (500, "Internal Server Error")
    assert "secret" in caplog.text


@pytest.mark.parametrize("application", [APP, "fal-ai/other/inpainting"])
def test_unknown_requests_are_404(fal: ModuleType, application: str) -> None:
    for call in (fal.status, fal.result, fal.cancel):
        with pytest.raises(fal.FalClientHTTPError) as caught:
            call(application, UNKNOWN)
        assert caught.value.status_code == 404


def test_a_request_is_not_found_under_another_application(fal: ModuleType, scripted: Any) -> None:
    handle = fal.submit(APP, {"prompt": "x"})
    with pytest.raises(fal.FalClientHTTPError) as caught:
        fal.status("someone/else", handle.request_id)
    assert caught.value.status_code == 404
    assert fal.result("fal-ai/fast-lightning-sdxl", handle.request_id) == handle.get()


@pytest.mark.parametrize(
    "application", ["fal-ai/fast-lightning-sdxl", "fal-ai/flux/dev", "nothing"]
)
def test_another_endpoint_is_404_and_told_which_there_is(fal: ModuleType, application: str) -> None:
    with pytest.raises(fal.FalClientHTTPError, match=f"lightfill runs {APP}") as caught:
        fal.submit(application, {})
    assert caught.value.status_code == 404


def test_the_path_may_be_apart(fal: ModuleType, scripted: Any) -> None:
    assert fal.run("fal-ai/fast-lightning-sdxl", {"prompt": "x"}, path="/inpainting")["seed"] == 1


def test_an_id_without_owner_is_a_value_error(fal: ModuleType) -> None:
    with pytest.raises(ValueError, match="Must be in the format <appOwner>/<appId>"):
        fal.status("nothing", UNKNOWN)


def test_cancel_in_the_queue_and_after_completion(somewhere: Somewhere, scripted: Any) -> None:
    fal = somewhere.start(worker=False)
    handle = fal.submit(APP, {"prompt": "x"})
    assert handle.status() == fal.Queued(position=0)
    fal.cancel(APP, handle.request_id)
    status = handle.status(with_logs=True)
    assert (status.error_type, status.logs) == ("client_cancelled", [])
    with pytest.raises(fal.FalClientHTTPError) as caught:
        handle.get()
    assert (caught.value.status_code, caught.value.error_type) == (499, "client_cancelled")
    with pytest.raises(fal.FalClientHTTPError, match="ALREADY_COMPLETED") as caught:
        handle.cancel()
    assert caught.value.status_code == 400
    assert scripted.ran == []


def test_cancel_stops_a_running_request(fal: ModuleType, scripted: Any) -> None:
    handle = fal.submit(APP, {"prompt": "wait"})
    events = handle.iter_events()
    assert any(isinstance(event, fal.InProgress) for event in events)
    handle.cancel()
    with pytest.raises(fal.FalClientHTTPError) as caught:
        handle.get()
    assert caught.value.status_code == 499


@pytest.mark.usefixtures("impatient")
def test_a_full_queue_is_429_after_fal_client_s_ten_attempts(
    somewhere: Somewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []
    submit = Service.submit
    monkeypatch.setattr(
        Service, "submit", lambda *args, **more: attempts.append(1) or submit(*args, **more)
    )
    fal = somewhere.start(worker=False, max_queue_length=1)
    fal.submit(APP, {"prompt": "x"})
    with pytest.raises(fal.FalClientHTTPError) as caught:
        fal.submit(APP, {"prompt": "y"})
    assert (caught.value.status_code, caught.value.error_type) == (429, "queue_full")
    assert len(attempts) == 11


def test_a_queue_with_room_again_takes_the_request(somewhere: Somewhere, scripted: Any) -> None:
    fal = somewhere.start(worker=False, max_queue_length=1)
    first = fal.submit(APP, {"prompt": "x"})

    cancelling = threading.Timer(0.05, first.cancel)
    cancelling.start()
    second = fal.submit(APP, {"prompt": "y"})
    cancelling.join()
    assert second.status() == fal.Queued(position=0)


def test_start_timeout_is_a_504_of_the_user_s(somewhere: Somewhere) -> None:
    fal = somewhere.start(worker=False)
    handle = fal.submit(APP, {"prompt": "x"}, start_timeout=1.01)
    with pytest.raises(fal.FalClientHTTPError) as caught:
        handle.get()
    assert (caught.value.status_code, caught.value.error_type) == (504, "startup_timeout")
    assert caught.value.response_headers["x-fal-request-timeout-type"] == "user"


def test_start_timeout_ends_with_the_start(
    fal: ModuleType, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue's clock is moved past it: a busy machine has the whole time to begin in."""
    handle = fal.submit(APP, {"prompt": "wait"}, start_timeout=15)
    assert any(isinstance(event, fal.InProgress) for event in handle.iter_events())
    monkeypatch.setattr(Database, "now", lambda _: time.time() + 16)  # the lease is 30 s
    assert isinstance(handle.status(), fal.InProgress)
    scripted.gate.set()
    assert handle.get()["seed"] == 1


@pytest.mark.parametrize("state", ["queued", "running"])
def test_client_timeout_cancels_the_request(
    somewhere: Somewhere, scripted: Any, state: str
) -> None:
    fal = somewhere.start(worker=state == "running")
    ids: list[str] = []
    started = time.monotonic()
    with pytest.raises(fal.FalClientTimeoutError) as caught:
        fal.subscribe(APP, {"prompt": "wait"}, client_timeout=1.01, on_enqueue=ids.append)
    assert 1 <= time.monotonic() - started < 30
    assert (caught.value.timeout, caught.value.request_id) == (1.01, ids[0])
    assert str(caught.value) == f"Request {ids[0]} timed out after 1.01 seconds"
    while not isinstance(status := fal.status(APP, ids[0]), fal.Completed):
        time.sleep(0.01)
    assert status.error_type in {"client_cancelled", "startup_timeout"}


def test_run_has_a_timeout_for_everything(fal: ModuleType, scripted: Any) -> None:
    with pytest.raises(TimeoutError):
        fal.run(APP, {"prompt": "wait"}, timeout=0.2)


@pytest.mark.usefixtures("impatient")
def test_client_timeout_counts_the_wait_for_a_full_queue(
    somewhere: Somewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.3)
    fal = somewhere.start(worker=False, max_queue_length=1)
    fal.submit(APP, {"prompt": "x"})
    with pytest.raises(fal.FalClientTimeoutError) as caught:
        fal.subscribe(APP, {"prompt": "y"}, client_timeout=1.01)
    assert caught.value.request_id is None
    assert str(caught.value) == "Request timed out after 1.01 seconds"


def test_a_start_timeout_beyond_the_client_s_is_warned_of(fal: ModuleType, scripted: Any) -> None:
    with pytest.warns(UserWarning, match="is larger than client_timeout") as warned:
        fal.subscribe(APP, {"prompt": "x"}, start_timeout=20, client_timeout=10)
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start_timeout": 1}, "greater than 1"),
        ({"start_timeout": "soon"}, "could not convert"),
        ({"priority": "high"}, "must be one of"),
    ],
)
def test_wrong_options_are_value_errors_as_in_fal_client(
    fal: ModuleType, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fal.submit(APP, {}, **wrong)


def test_headers_do_what_the_arguments_do(somewhere: Somewhere, scripted: Any) -> None:
    fal = somewhere.start(worker=False)
    low = fal.submit(APP, {"prompt": "x"}, headers={"X-Fal-Queue-Priority": "low"})
    fal.submit(APP, {"prompt": "y"}, hint="any")
    assert low.status() == fal.Queued(position=1)
    with pytest.raises(fal.FalClientHTTPError) as caught:
        fal.submit(APP, {}, headers={"X-Fal-Queue-Priority": "high"})
    assert caught.value.status_code == 422


def test_arguments_that_are_no_json_are_a_422(fal: ModuleType) -> None:
    with pytest.raises(fal.FalClientHTTPError) as caught:
        fal.submit(APP, {"prompt": object()})
    assert caught.value.status_code == 422


def test_a_database_that_cannot_be_used_says_which_setting_names_it(
    fal_module: ModuleType, settings: Settings
) -> None:
    fal = fal_module
    fal.configure(settings, database_url="mysql://somewhere/x")
    with pytest.raises(DatabaseUnavailable, match="postgresql://"):
        fal.submit(APP, {})
