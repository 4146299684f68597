"""The runtime behind the client: started late, shared, ended cleanly, safe to fork."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lightfill.engine.errors import StorageError
from lightfill.engine.fal.files import Files
from lightfill.engine.fal.queue import JobQueue
from lightfill.engine.fal.settings import Settings
from lightfill.engine.fal.worker import Worker
from lightfill.engine.pipeline import Inpainter

APP = "fal-ai/fast-lightning-sdxl/inpainting"
PICTURES = Path(__file__).parents[4] / "examples"
WAITING = """
import os
import lightfill.fal as fal
from lightfill.engine.fal import endpoint

def say(*words):  # one write: threads do not mix their lines
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())

class Waits:
    def __init__(self, *_): pass
    def close(self): say("closed")
    def run(self, arguments, *, on_log, cancelled, owner):
        import time
        from lightfill import Cancelled
        on_log("begun")
        say("begun")
        while arguments["prompt"] == "wait":
            time.sleep(0.01)
            if cancelled():
                raise Cancelled("told to stop")
        return {"seed": 1}

endpoint.Endpoint = Waits
APP = "fal-ai/fast-lightning-sdxl/inpainting"
"""


def run(code: str, data_dir: Path) -> str:
    """What a fresh interpreter prints that runs `code`; warnings there are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, "LIGHTFILL_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def queue_of(settings: Settings) -> JobQueue:
    return JobQueue.open(settings.database, max_length=None, retention_s=60, lease_s=30)


def eventually(is_true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_importing_starts_nothing_and_opens_nothing(tmp_path: Path) -> None:
    code = """
    import sys, threading
    import lightfill.fal as fal_client
    print(threading.active_count())
    fal_client.encode("x", "text/plain"), fal_client.SyncClient(), fal_client.Queued(0)
    print(*{name.partition(".")[0] for name in sys.modules})
    """
    threads, loaded = run(code, tmp_path / "data").splitlines()
    assert threads == "1"
    assert not (tmp_path / "data").exists()
    heavy = {"numpy", "PIL", "sqlalchemy", "sqlite3", "pydantic", "httpx", "onnxruntime"}
    assert heavy.isdisjoint(loaded.split())


def test_only_asking_starts_no_worker(fal: ModuleType, settings: Settings) -> None:
    before = threading.active_count()
    with pytest.raises(fal.FalClientHTTPError):
        fal.status(APP, "unknown")
    fal.upload(b"x", "text/plain")
    assert threading.active_count() == before


@pytest.mark.parametrize("when", ["running", "waiting"])
def test_at_exit_unfinished_requests_go_back_to_the_queue(
    when: str, fal: ModuleType, settings: Settings, scripted: Any
) -> None:
    first = "wait" if when == "running" else "go"
    code = WAITING + textwrap.dedent(
        f"""
        import threading, atexit
        def check():
            say([each.name for each in threading.enumerate()])
        atexit.register(check)  # runs after lightfill's, which is registered later
        handles = [fal.submit(APP, {{"prompt": text}}) for text in ({first!r}, "wait", "wait")]
        events = handles[0].iter_events()
        assert any(not isinstance(event, fal.Queued) for event in events)
        say(*(handle.request_id for handle in handles))
        """
    )
    printed = run(code, settings.data_dir).splitlines()
    assert printed[-2:] == ["closed", "['MainThread']"]
    ids = next(line for line in printed if line.count("-") > 8).split()
    fal.configure(settings, worker=False)
    states = [fal.status(APP, each) for each in ids]
    if when == "running":
        assert states == [fal.Queued(0), fal.Queued(1), fal.Queued(2)]
    else:
        assert states[1:] == [fal.Queued(0), fal.Queued(1)]
    scripted.gate.set()
    fal.configure(settings)
    assert [fal.result(APP, each)["seed"] for each in ids] == [1, 1, 1]


def test_a_request_left_over_is_run_by_whoever_asks_for_it(
    fal: ModuleType, settings: Settings, scripted: Any
) -> None:
    queue = queue_of(settings)
    request_id = queue.submit("fal-ai/fast-lightning-sdxl", {"prompt": "x"}, path="inpainting")
    queue.close()
    eventually(lambda: isinstance(fal.status(APP, request_id), fal.Completed))
    assert fal.result(APP, request_id)["seed"] == 1


def test_requests_of_another_process_s_worker_are_seen(fal: ModuleType, settings: Settings) -> None:
    fal.configure(settings, worker=False)
    queue = queue_of(settings)

    def work(
        _: object, log: Callable[[str], None], __: object
    ) -> tuple[int, Any, dict[str, float]]:
        log("elsewhere")
        return 200, {"seed": 7}, {}

    handle = fal.submit(APP, {"prompt": "x"})
    assert handle.status() == fal.Queued(0)
    with Worker(queue, work):
        assert handle.get() == {"seed": 7}
    status = handle.status(with_logs=True)
    assert [entry["message"] for entry in status.logs] == ["elsewhere"]
    queue.close()


def test_another_interpreter_runs_what_this_one_submits(
    fal: ModuleType, settings: Settings, tmp_path: Path
) -> None:
    fal.configure(settings, worker=False)
    handle = fal.submit(APP, {"prompt": "x"})
    code = WAITING + f"say(fal.result(APP, {handle.request_id!r}))"
    assert run(code, settings.data_dir).splitlines() == ["begun", "{'seed': 1}", "closed"]
    assert handle.get() == {"seed": 1}


def test_several_clients_share_one_worker_and_one_model(
    fal: ModuleType, settings: Settings, scripted: Any
) -> None:
    clients = [fal.SyncClient(), fal.SyncClient(key="id:secret"), fal.sync_client]
    before = threading.active_count()
    results: list[Any] = []

    def ask(client: Any) -> None:
        results.extend(client.run(APP, {"prompt": "x"}) for _ in range(5))

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(scripted.ran) == 45
    eventually(lambda: threading.active_count() == before + 2)  # the worker, and its leases
    fal.shutdown()
    assert scripted.closed == 1


def test_a_client_with_settings_of_its_own_has_a_runtime_of_its_own(
    fal: ModuleType, settings: Settings, scripted: Any, tmp_path: Path
) -> None:
    other = fal.SyncClient(settings=replace(settings, data_dir=tmp_path / "other"))
    handle = other.submit(APP, {"prompt": "x"})
    assert handle.get()["seed"] == 1
    assert (tmp_path / "other/queue.sqlite3").is_file()
    with pytest.raises(fal.FalClientHTTPError):
        fal.status(APP, handle.request_id)


def test_configure_ends_what_ran_before_and_its_jobs_wait(
    fal: ModuleType, settings: Settings, scripted: Any
) -> None:
    handle = fal.submit(APP, {"prompt": "wait"})
    assert any(isinstance(event, fal.InProgress) for event in handle.iter_events())
    before = threading.active_count()
    fal.configure(settings, worker=False)
    assert threading.active_count() <= before - 1
    assert scripted.closed == 1
    assert handle.status() == fal.Queued(0)


def test_configure_reads_the_environment_and_takes_overrides(
    fal: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIGHTFILL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LIGHTFILL_MAX_QUEUE_LENGTH", "5")
    settings = fal.configure(max_queue_length=7)
    assert (settings.data_dir, settings.max_queue_length) == (tmp_path, 7)
    assert fal.configure(settings, device="openvino") == replace(settings, device="openvino")


def test_shutdown_with_grace_lets_the_running_request_finish(
    fal: ModuleType, settings: Settings, scripted: Any
) -> None:
    handle = fal.submit(APP, {"prompt": "wait"})
    assert any(isinstance(event, fal.InProgress) for event in handle.iter_events())
    threading.Timer(0.1, scripted.gate.set).start()
    fal.shutdown(grace_s=20)
    fal.configure(settings, worker=False)
    assert handle.get()["seed"] == 1


def test_a_forked_child_starts_anew_and_leaves_the_parent_s_alone(tmp_path: Path) -> None:
    code = WAITING + textwrap.dedent(
        """
        import multiprocessing, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads and fork
        from lightfill.engine.fal.worker import Worker
        Worker.__init__.__kwdefaults__["poll_s"] = 600  # the parent must not run the child's job

        def child(pipe):
            try:
                inherited = fal.status(APP, first.request_id)
                pipe.send((inherited, fal.run(APP, {"prompt": "in the child"})))
            except BaseException as error:
                pipe.send(repr(error))

        first = fal.submit(APP, {"prompt": "go"})
        first.get()
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
        process.start()
        say(ours.recv())
        process.join()
        say(process.exitcode, fal.run(APP, {"prompt": "in the parent"}))
        """
    )
    printed = run(code, tmp_path)
    assert "Completed(logs=None" in printed
    assert "error=None, error_type=None), {'seed': 1})" in printed
    assert "0 {'seed': 1}" in printed
    assert printed.count("closed") == 2


def test_expired_files_and_jobs_go_with_the_first_job(
    fal: ModuleType, settings: Settings, scripted: Any
) -> None:
    short = fal.StorageSettings(expires_in=1)
    url = fal.upload(b"x", "text/plain", lifecycle=short)
    kept = fal.upload(b"y", "text/plain", lifecycle=fal.StorageSettings(expires_in="never"))
    time.sleep(1.05)
    fal.run(APP, {"prompt": "x"})
    assert not Path(url.removeprefix("file://")).exists()
    assert Path(kept.removeprefix("file://")).exists()


def test_expired_files_go_from_an_idle_process(
    fal: ModuleType, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightfill.engine.fal.worker._SWEEP_S", 0)
    monkeypatch.setattr("lightfill.engine.fal.runtime._SWEEP_S", 0)
    fal.run(APP, {"prompt": "x"})
    url = fal.upload(b"x", "text/plain", lifecycle=fal.StorageSettings(expires_in=1))
    path = Path(url.removeprefix("file://"))
    assert path.exists()
    eventually(lambda: not path.exists())


def test_files_that_cannot_be_swept_fail_no_request(
    fal: ModuleType, scripted: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refuse(_: object) -> int:
        raise StorageError("no rights; free space")

    monkeypatch.setattr(Files, "sweep", refuse)
    assert fal.run(APP, {"prompt": "x"})["seed"] == 1
    assert "cannot delete what has expired" in caplog.text


def test_a_missing_extra_is_named_with_its_command(tmp_path: Path) -> None:
    code = """
    import sys
    sys.modules["sqlalchemy"] = None
    import lightfill.fal as fal_client
    try:
        fal_client.submit("fal-ai/fast-lightning-sdxl/inpainting", {})
    except fal_client.FalClientError:
        raise
    except Exception as error:
        print(type(error).__name__, error)
    """
    printed = run(code, tmp_path)
    assert printed.startswith("DatabaseUnavailable lightfill.fal needs sqlalchemy")
    assert "pip install 'lightfill[fal]'" in printed


def test_the_model_of_settings_is_opened_by_the_first_job_and_freed(
    fal: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, closed = [], []
    real_open, real_close = Inpainter.open, Inpainter.close
    monkeypatch.setattr(Inpainter, "open", lambda *a, **k: opened.append(a) or real_open(*a, **k))
    monkeypatch.setattr(Inpainter, "close", lambda self: closed.append(1) or real_close(self))
    arguments = {
        "image_url": PICTURES / "coffee.png", "mask_url": PICTURES / "coffee-mask.png",
        "prompt": "a red ball", "image_size": {"width": 64, "height": 64},
    }  # fmt: skip
    fal.upload(b"x", "text/plain")
    assert not opened
    for _ in range(2):
        assert fal.run(APP, arguments)["images"]
    assert len(opened) == 1
    fal.shutdown()
    assert closed


def test_a_bundle_that_is_not_there_fails_the_request_not_the_process(
    fal: ModuleType, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fal.configure(settings, bundle=tmp_path / "none")
    arguments = {"image_url": "data:,x", "mask_url": "data:,x", "prompt": "x"}
    for _ in range(2):
        with pytest.raises(fal.FalClientHTTPError, match="none") as caught:
            fal.run(APP, arguments)
        assert caught.value.status_code == 500
