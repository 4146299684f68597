"""The client before servers that answer badly, late, by another name, or not at all."""

import asyncio
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripted_endpoint import OUTPUT, ScriptedEndpoint
from scripted_server import Answer, Script, served
from tls_terminator import terminating

from lightfill.engine.errors import InvalidInput
from lightfill.engine.fal import calls, retries
from lightfill.engine.fal.client_errors import FalClientConnectionError

from .conftest import Somewhere

APP = "fal-ai/fast-lightning-sdxl/inpainting"
ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"
IDS = {"x-fal-request-id": ID}
SUBMITTED = {
    "status": "IN_QUEUE", "request_id": ID, "queue_position": 0, "logs": None, "metrics": {},
    "response_url": "http://elsewhere/r", "status_url": "http://elsewhere/s",
    "cancel_url": "http://elsewhere/c",
}  # fmt: skip
DONE = {**SUBMITTED, "status": "COMPLETED"}


BASE = "/queue/fal-ai/fast-lightning-sdxl"
SUBMIT = ("POST", f"/queue/{APP}")
STATUS = ("GET", f"{BASE}/requests/{ID}/status")
RESULT = ("GET", f"{BASE}/requests/{ID}")
CANCEL = ("PUT", f"{BASE}/requests/{ID}/cancel")


def well(**changes: list[Answer]) -> dict[tuple[str, str], list[Answer]]:
    """A server that completes every request at once."""
    return {
        SUBMIT: changes.get("submit", [Answer(200, SUBMITTED, IDS)]),
        STATUS: changes.get("status", [Answer(200, DONE, IDS)]),
        RESULT: changes.get("result", [Answer(200, OUTPUT, IDS)]),
        CANCEL: changes.get("cancel", [Answer(202, {"status": "CANCELLATION_REQUESTED"}, IDS)]),
    }


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made again is made again at once."""
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.0)


def submits(script: Script) -> int:
    return script.asked.count(SUBMIT)


def test_a_request_goes_to_the_server_and_its_connection_is_kept(fal_module: ModuleType) -> None:
    with served(Script(well())) as script:
        client = fal_module.SyncClient(base_url=f"{script.origin}/", key="id:secret")
        assert client.run(APP, {"prompt": "x"}) == OUTPUT
        assert asyncio.run(
            fal_module.AsyncClient(base_url=script.origin, key="id:secret").run(APP, {})
        ) == OUTPUT  # fmt: skip
        assert script.asked == [SUBMIT, STATUS, RESULT] * 2
        assert script.connections == 2  # another base_url, another client
        assert {each["authorization"] for each in script.headers} == {"Key id:secret"}
        assert script.headers[0]["content-type"] == "application/json"
        assert script.headers[0]["user-agent"].startswith("lightfill/")
        fal_module.shutdown()


def test_handles_point_to_where_the_caller_reached_the_server(fal_module: ModuleType) -> None:
    """A server behind a tunnel knows itself by another name; the key is sent nowhere else."""
    with served(Script(well())) as script:
        client = fal_module.SyncClient(base_url=script.origin)
        handle = client.submit(APP, {"prompt": "x"})
        assert handle.status_url == f"{script.origin}{STATUS[1]}"
        assert handle == client.get_handle(APP, ID)
        stolen = fal_module.SyncRequestHandle(ID, "http://x/r", "http://x/s", "http://x/c", client)
        for ask in (stolen.status, stolen.get, stolen.cancel):
            with pytest.raises(fal_module.FalClientHTTPError, match="it is not at http://127"):
                ask()
        fal_module.shutdown()


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({}, None),
        ({"FAL_KEY": "a:b"}, "Key a:b"),
        ({"FAL_KEY_ID": "c", "FAL_KEY_SECRET": "d"}, "Key c:d"),
        ({"FAL_KEY": "a:b", "FAL_KEY_ID": "c", "FAL_KEY_SECRET": "d"}, "Key a:b"),
    ],
)
def test_the_key_is_found_as_fal_client_finds_it(
    fal_module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    sent: str | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with served(Script(well())) as script:
        fal_module.SyncClient(base_url=script.origin).submit(APP, {})
        assert script.headers[0].get("authorization") == sent
        fal_module.SyncClient(base_url=script.origin, key="own:key").submit(APP, {})
        assert script.headers[1]["authorization"] == "Key own:key"
        fal_module.shutdown()


@pytest.mark.parametrize("again", [408, 409, 429])
def test_statuses_that_pass_are_asked_again(fal_module: ModuleType, again: int) -> None:
    answers = [Answer(again, {"detail": "busy"}, IDS)] * 9 + [Answer(200, SUBMITTED, IDS)]
    with served(Script(well(submit=answers))) as script:
        fal_module.SyncClient(base_url=script.origin).submit(APP, {})
        assert submits(script) == 10
        fal_module.shutdown()


NGINX = "<html><hr><center>nginx/1.25</center></html>"


@pytest.mark.parametrize(
    ("answer", "attempts"),
    [
        (Answer(502, NGINX), 10), (Answer(503, NGINX), 10), (Answer(504, NGINX), 10),
        (Answer(502, NGINX, IDS), 1), (Answer(502, "<html>another proxy</html>"), 1),
        (Answer(500, NGINX), 1), (Answer(422, {"detail": []}, IDS), 1),
        (Answer(504, {"detail": "late"}, {"x-fal-request-timeout-type": "user", **IDS}), 1),
    ],
)  # fmt: skip
def test_errors_are_asked_again_as_by_fal_client(
    fal_module: ModuleType, answer: Answer, attempts: int
) -> None:
    with served(Script(well(submit=[answer]))) as script:
        with pytest.raises(fal_module.FalClientHTTPError) as caught:
            fal_module.SyncClient(base_url=script.origin).submit(APP, {})
        assert caught.value.status_code == answer.status
        assert submits(script) == attempts
        if isinstance(answer.body, str):
            assert caught.value.message == caught.value.response.text == answer.body
        fal_module.shutdown()


def test_a_lost_connection_is_made_again(fal_module: ModuleType) -> None:
    lost = [Answer(None), Answer(None), Answer(200, DONE, IDS)]
    with served(Script(well(status=lost))) as script:
        assert fal_module.SyncClient(base_url=script.origin).run(APP, {}) == OUTPUT
        assert script.asked.count(STATUS) == 3
        fal_module.shutdown()


def test_no_server_is_a_connection_error_that_says_what_to_do(fal_module: ModuleType) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        client = fal_module.SyncClient(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        for ask in (client.submit, client.run, lambda *_: client.status(APP, ID)):
            with pytest.raises(ConnectionError, match="start it with `lightfill serve`") as caught:
                ask(APP, {})
            assert isinstance(caught.value, fal_module.FalClientConnectionError)
    restored = pickle.loads(pickle.dumps(caught.value))
    assert (str(restored), restored.may_pass) == (str(caught.value), True)


@pytest.mark.parametrize(("start_timeout", "attempts"), [(None, 10), (2, 1)])
def test_a_silent_server_is_left_after_the_default_timeout(
    fal_module: ModuleType, start_timeout: float | None, attempts: int
) -> None:
    with served(Script(well(submit=[Answer(200, SUBMITTED, IDS, wait_s=5)]))) as script:
        client = fal_module.SyncClient(base_url=script.origin, default_timeout=0.05)
        with pytest.raises(FalClientConnectionError, match=r"did not answer within 0\.05 s"):
            client.submit(APP, {}, start_timeout=start_timeout)
        assert submits(script) == attempts
        fal_module.shutdown()


def test_client_timeout_is_kept_to_before_a_silent_server(
    fal_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_CANCEL_S", 0.3)
    silent = [Answer(200, DONE, IDS, wait_s=30)]
    with served(Script(well(status=silent, cancel=silent))) as script:
        started = time.monotonic()
        with pytest.raises(fal_module.FalClientTimeoutError) as caught:
            fal_module.SyncClient(base_url=script.origin).subscribe(APP, {}, client_timeout=1.2)
        assert time.monotonic() - started < 15
        assert caught.value.request_id == ID
        assert script.asked[-1] == CANCEL
        fal_module.shutdown()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(200, "<html>Welcome</html>"), "no lightfill server"),
        (Answer(200, ["a list"]), "no lightfill server"),
        (Answer(200, {"status": "ok"}), "no lightfill server"),
        (Answer(200, "this is no gzip", {"content-encoding": "gzip"}), "cannot be reached"),
        (Answer(307, "", {"location": "https://example.org/x"}), "redirects to https://example"),
    ],
)
def test_another_kind_of_server_is_told_from_lightfill(
    fal_module: ModuleType, answer: Answer, problem: str
) -> None:
    with served(Script(well(submit=[answer]))) as script:
        with pytest.raises(FalClientConnectionError, match=f"{problem}.*;.* correct base_url"):
            fal_module.SyncClient(base_url=script.origin).submit(APP, {})
        assert submits(script) == 1
        fal_module.shutdown()


def test_https_is_verified(
    fal_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with served(Script(well())) as script, terminating(tmp_path) as tls:
        tls.backend_port = int(script.origin.rpartition(":")[2])
        client = fal_module.SyncClient(base_url=f"https://127.0.0.1:{tls.port}")
        with pytest.raises(FalClientConnectionError, match=r"cannot be reached .*CERTIFICATE"):
            client.run(APP, {})
        fal_module.shutdown()
        monkeypatch.setenv("SSL_CERT_FILE", str(tls.authority))
        assert client.run(APP, {}) == OUTPUT
        assert client.get_handle(APP, ID).status_url.startswith("https://127.0.0.1:")
        fal_module.shutdown()


@pytest.mark.parametrize(
    "wrong",
    [
        "127.0.0.1:8765",
        "ftp://example.org",
        "http://",
        "http://id:key@example.org",
        "",
        "http://a?b",
    ],
)
def test_a_base_url_that_is_none(fal_module: ModuleType, wrong: str) -> None:
    with pytest.raises(InvalidInput, match=r"^base_url: .*; write http://127\.0\.0\.1:8765"):
        fal_module.SyncClient(base_url=wrong).submit(APP, {})


@pytest.mark.parametrize(
    "odd", ["http://[::1", "http://h:99999", "http://h:x", "http://\u20ac\u200b", "http://."]
)
def test_a_base_url_that_leads_nowhere(fal_module: ModuleType, odd: str) -> None:
    with pytest.raises((FalClientConnectionError, InvalidInput), match="base_url"):
        fal_module.SyncClient(base_url=odd).submit(APP, {})


def test_a_key_that_is_none_is_not_repeated(fal_module: ModuleType) -> None:
    client = fal_module.SyncClient(base_url="http://127.0.0.1:1", key="secret\nkey")
    with pytest.raises(InvalidInput, match=r"^key: ") as caught:
        client.submit(APP, {})
    assert "secret" not in str(caught.value) + repr(client)


def test_what_is_long_waited_for_is_told_by_the_stream(
    somewhere: Somewhere, scripted: type[ScriptedEndpoint]
) -> None:
    fal = somewhere.start()
    started = time.monotonic()
    threading.Timer(0.5, scripted.gate.set).start()
    states: list[Any] = []
    fal.subscribe(APP, {"prompt": "wait"}, interval=60, on_queue_update=states.append)
    assert time.monotonic() - started < 30
    assert isinstance(states[-1], fal.Completed)


def test_without_a_stream_a_long_wait_is_polled(fal_module: ModuleType) -> None:
    statuses = [Answer(202, SUBMITTED, IDS)] * 2 + [Answer(200, DONE, IDS)]
    with served(Script(well(status=statuses))) as script:
        started = time.monotonic()
        client = fal_module.SyncClient(base_url=script.origin)
        assert client.result(APP, ID) == OUTPUT
        handle = client.get_handle(APP, ID)
        script.answers[STATUS] = [Answer(202, SUBMITTED, IDS)] * 2 + [Answer(200, DONE, IDS)]
        assert handle.get(interval=60) == OUTPUT
        assert time.monotonic() - started < 20
        assert ("GET", f"{STATUS[1]}/stream") in script.asked
        fal_module.shutdown()


@pytest.mark.parametrize("named", ["argument", "variable", "settings"])
def test_module_functions_and_clients_go_to_the_configured_server(
    fal_module: ModuleType, monkeypatch: pytest.MonkeyPatch, named: str, tmp_path: Any
) -> None:
    with served(Script(well())) as script:
        if named == "variable":
            monkeypatch.setenv("LIGHTFILL_BASE_URL", script.origin)
            monkeypatch.setenv("LIGHTFILL_DATA_DIR", str(tmp_path / "none"))
        elif named == "argument":
            fal_module.configure(base_url=script.origin, data_dir=tmp_path / "none")
        else:
            fal_module.configure(fal_module.Settings(base_url=script.origin + "/"))
        assert fal_module.run(APP, {}) == fal_module.SyncClient().run(APP, {}) == OUTPUT
        assert asyncio.run(fal_module.run_async(APP, {})) == OUTPUT
        assert script.asked == [SUBMIT, STATUS, RESULT] * 3
        assert not (tmp_path / "none").exists()
        fal_module.shutdown()


def test_a_client_s_own_server_wins_over_the_configured_one(fal_module: ModuleType) -> None:
    with served(Script(well())) as script:
        fal_module.configure(base_url="http://127.0.0.1:1")
        assert fal_module.SyncClient(base_url=script.origin).run(APP, {}) == OUTPUT
        fal_module.shutdown()


def test_a_model_of_one_s_own_and_a_server_contradict_each_other(fal_module: ModuleType) -> None:
    with pytest.raises(InvalidInput, match="leave out it or base_url"):
        fal_module.configure(base_url="http://127.0.0.1:1", inpainter=object())


def test_a_program_of_a_server_s_loads_no_model_and_no_database() -> None:
    with served(Script(well())) as script:
        code = f"""
        import sys
        import lightfill.fal as fal
        client = fal.SyncClient(base_url={script.origin!r})
        print(client.run({APP!r}, {{"prompt": "x"}})["seed"])
        print(*{{name.partition(".")[0] for name in sys.modules}})
        """
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
            capture_output=True, text=True, check=False, env={**os.environ},
        )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    seed, loaded = ran.stdout.splitlines()
    assert seed == "1"
    assert {"numpy", "PIL", "sqlalchemy", "onnxruntime"}.isdisjoint(loaded.split())


def test_a_forked_child_opens_connections_of_its_own(fal_module: ModuleType) -> None:
    with served(Script(well())) as script:
        code = f"""
        import os, warnings
        import lightfill.fal as fal
        client = fal.SyncClient(base_url={script.origin!r})
        client.run({APP!r}, {{}})
        if (child := os.fork()) == 0:
            client.run({APP!r}, {{}})
            os._exit(0)
        print(os.waitpid(child, 0)[1], client.run({APP!r}, {{}})["seed"])
        """
        ran = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (ran.returncode, ran.stdout) == (0, "0 1\n"), ran.stderr
        assert script.connections == 2
        assert submits(script) == 3


def each_thread(count: int, work: Callable[[], Any]) -> list[Any]:
    done: list[Any] = []
    threads = [threading.Thread(target=lambda: done.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def test_many_threads_share_a_client(fal_module: ModuleType) -> None:
    with served(Script(well())) as script:
        client = fal_module.SyncClient(base_url=script.origin)
        assert each_thread(16, lambda: client.run(APP, {})) == [OUTPUT] * 16
        assert script.connections <= 16
        fal_module.shutdown()
