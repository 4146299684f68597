"""Webhooks of a running server: what they say, that they verify, when they come again."""

import base64
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from running_server import ENDPOINT, RunningServer, running
from scripted_endpoint import OUTPUT, ScriptedEndpoint
from webhook_receiver import Receiver, Told, receiving, verified

from lightfill.engine.fal.settings import Settings
from lightfill.engine.server.webhooks import WebhookPolicy

JWKS_PATHS = ["/.well-known/jwks.json", "/rest/.well-known/jwks.json"]
QUICK = WebhookPolicy(retry_delays_s=(0.05,) * 10, poll_s=0.02)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture
def hooked(settings: Settings, scripted: type[ScriptedEndpoint]) -> Iterator[RunningServer]:
    """A server that retries at once."""
    with running(settings, webhooks=QUICK) as started:
        yield started
        scripted.gate.set()


def submit(server: RunningServer, prompt: str, webhook: str, **headers: str) -> str:
    with server.client() as client:
        reply = client.post(
            f"/queue/{ENDPOINT}",
            json={"prompt": prompt}, params={"fal_webhook": webhook}, headers=headers,
        )  # fmt: skip
        assert reply.status_code == 200
        return str(reply.json()["request_id"])


def logs(server: RunningServer, request_id: str) -> list[str]:
    status = server.site.queue.status(request_id, with_logs=True)
    return [entry["message"] for entry in status.logs or []]


def attempts(server: RunningServer, outcome: str) -> float:
    labels = {"outcome": outcome}
    name = "lightfill_webhook_deliveries_total"
    return server.site.metrics.registry.get_sample_value(name, labels) or 0.0


def until(condition: Any) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_success_says_the_output_and_verifies(hooked: RunningServer, receiver: Receiver) -> None:
    request_id = submit(hooked, "go", f"{receiver.url}/told?x=1")
    (told,) = receiver.wait_for(1)
    assert told.path == "/told?x=1"
    assert told.body == {
        "request_id": request_id,
        "gateway_request_id": request_id,
        "status": "OK",
        "payload": OUTPUT,
    }
    assert told.headers["x-fal-webhook-request-id"] == request_id
    assert told.headers["x-fal-webhook-user-id"] == "local"
    assert told.headers["content-type"] == "application/json"
    for path in JWKS_PATHS:
        assert verified(hooked.origin + path, told)
    receiver.stays_at(1, 0.3)
    until(lambda: attempts(hooked, "delivered") == 1)


def test_a_keys_request_says_whose_it_was(hooked: RunningServer, receiver: Receiver) -> None:
    hooked.site.queue.submit(
        "fal-ai/fast-lightning-sdxl", {"prompt": "go"}, owner="key-7", webhook_url=receiver.url
    )
    (told,) = receiver.wait_for(1)
    assert told.headers["x-fal-webhook-user-id"] == "key-7"
    assert verified(hooked.origin + JWKS_PATHS[0], told)


def test_failure_says_fals_error(hooked: RunningServer, receiver: Receiver) -> None:
    for prompt, status in (("refuse", 422), ("break", 500)):
        request_id = submit(hooked, prompt, receiver.url)
        told = receiver.wait_for(1)[0]
        receiver.told.clear()
        with hooked.client() as client:
            result = client.get(f"/queue/fal-ai/fast-lightning-sdxl/requests/{request_id}")
        assert told.body == {
            "request_id": request_id,
            "gateway_request_id": request_id,
            "status": "ERROR",
            "error": f"Invalid status code: {status}",
            "payload": result.json(),
        }
        assert verified(hooked.origin + JWKS_PATHS[0], told)


def test_an_output_that_is_not_json(
    hooked: RunningServer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedEndpoint, "run", lambda *_, **__: {"seed": float("inf")})
    submit(hooked, "go", receiver.url)
    (told,) = receiver.wait_for(1)
    assert told.body["status"] == "OK"
    assert told.body["payload"] is None
    assert "JSON" in told.body["payload_error"]


def test_cancels_and_start_timeouts_notify(
    hooked: RunningServer, receiver: Receiver, scripted: type[ScriptedEndpoint]
) -> None:
    running_one = submit(hooked, "wait", receiver.url)
    cancelled = submit(hooked, "go", receiver.url)
    late = submit(hooked, "go", receiver.url, **{"x-fal-request-timeout": "0.05"})
    until(lambda: scripted.ran)
    with hooked.client() as client:
        base = "/queue/fal-ai/fast-lightning-sdxl/requests"
        for request_id in (cancelled, running_one):
            assert client.put(f"{base}/{request_id}/cancel").status_code == 202
        until(lambda: client.get(f"{base}/{late}/status").status_code == 200)
    errors = {told.body["request_id"]: told.body["error"] for told in receiver.wait_for(3)}
    assert errors[cancelled] == errors[running_one] == "Invalid status code: 499"
    assert errors[late] == "Invalid status code: 504"


def test_a_lost_worker_notifies(
    settings: Settings, scripted: type[ScriptedEndpoint], receiver: Receiver
) -> None:
    """The worker of another process fell silent after a cancel: whoever notices completes it."""
    from lightfill.engine.fal.queue import JobQueue

    dead = JobQueue.open(settings.database, max_length=None, retention_s=3600, lease_s=0.2)
    request_id = dead.submit("app", {"prompt": "go"}, webhook_url=receiver.url)
    assert dead.claim("dead")
    dead.cancel(request_id)
    dead.close()
    time.sleep(0.2)
    with running(settings, webhooks=QUICK):
        (told,) = receiver.wait_for(1)
    assert told.body["error"] == "Invalid status code: 499"


def test_a_receiver_that_was_down_is_told_when_it_is_up(hooked: RunningServer) -> None:
    with receiving() as gone:
        port = gone.port
    request_id = submit(hooked, "go", f"http://127.0.0.1:{port}/")
    until(lambda: attempts(hooked, "failed") >= 2)
    with receiving(port=port) as back:
        (told,) = back.wait_for(1)
        assert told.body["request_id"] == request_id
        back.stays_at(1, 0.2)
    assert attempts(hooked, "given_up") == 0


def test_ten_retries_each_signed_anew_then_it_is_given_up(
    hooked: RunningServer, receiver: Receiver
) -> None:
    receiver.answer = lambda _: 503
    request_id = submit(hooked, "go", receiver.url)
    told = receiver.wait_for(11)
    until(lambda: attempts(hooked, "given_up") == 1)
    receiver.stays_at(11, 0.2)
    assert {each.content for each in told} == {told[0].content}
    assert all(verified(hooked.origin + JWKS_PATHS[0], each) for each in told)
    assert attempts(hooked, "failed") == 10
    assert logs(hooked, request_id)[-1] == ("webhook given up: 127.0.0.1 answered with status 503")


def test_the_schedule_is_two_hours(receiver: Receiver) -> None:
    delays = WebhookPolicy().retry_delays_s
    assert len(delays) == 10
    assert 6600 < sum(delays) <= 7200
    assert list(delays) == sorted(delays)
    assert WebhookPolicy().lease_s > 2 * WebhookPolicy().timeout_s


def test_pauses_grow_as_the_schedule_says(
    settings: Settings, scripted: type[ScriptedEndpoint], receiver: Receiver
) -> None:
    policy = replace(QUICK, retry_delays_s=(0.1, 0.3, 0.6), jitter=0.1)
    receiver.answer = lambda _: 500
    with running(settings, webhooks=policy) as server:
        submit(server, "go", receiver.url)
        told = receiver.wait_for(4)
    pauses = [later.at - sooner.at for sooner, later in pairwise(told)]
    assert all(pause >= 0.9 * delay for pause, delay in zip(pauses, (0.1, 0.3, 0.6), strict=True))


def test_a_slow_receiver_stalls_no_other(
    settings: Settings, scripted: type[ScriptedEndpoint], receiver: Receiver
) -> None:
    policy = replace(QUICK, places=4, places_each=2, timeout_s=20.0)
    gate = threading.Event()
    under_way: list[int] = []

    def slowly(count: int) -> int:
        under_way.append(count)
        gate.wait(20)
        return 200

    with receiving() as slow, running(settings, webhooks=policy) as server:
        slow.answer = slowly
        slow_ones = [submit(server, "go", f"{slow.url}/{n}") for n in range(6)]
        slow.wait_for(2)
        quick_ones = [submit(server, "go", receiver.url) for _ in range(6)]
        told = {each.body["request_id"] for each in receiver.wait_for(6)}
        assert told == set(quick_ones)
        slow.stays_at(2, 0.1)
        gate.set()
        assert {each.body["request_id"] for each in slow.wait_for(6)} == set(slow_ones)


def test_a_receiver_that_never_answers_is_left_after_the_timeout(
    settings: Settings, scripted: type[ScriptedEndpoint], receiver: Receiver
) -> None:
    done = threading.Event()
    receiver.answer = lambda count: (done.wait(20), 200)[1] if count == 1 else 200
    with running(settings, webhooks=replace(QUICK, timeout_s=0.3)) as server:
        submit(server, "go", receiver.url)
        receiver.wait_for(2)
        until(lambda: attempts(server, "failed") == 1)
        done.set()


def test_two_servers_on_one_database_tell_once(
    settings: Settings, scripted: type[ScriptedEndpoint], receiver: Receiver
) -> None:
    """And either's keys verify what the other sent."""
    with running(settings, webhooks=QUICK) as one, running(settings, webhooks=QUICK) as other:
        sent = [submit([one, other][n % 2], "go", receiver.url) for n in range(20)]
        told = receiver.wait_for(20)
        receiver.stays_at(20, 0.3)
        assert sorted(each.body["request_id"] for each in told) == sorted(sent)
        for server in (one, other):
            assert all(verified(server.origin + JWKS_PATHS[0], each) for each in told)
        until(lambda: attempts(one, "delivered") + attempts(other, "delivered") == 20)


def test_jobs_of_other_processes_are_told_by_a_server(
    settings: Settings, scripted: type[ScriptedEndpoint], receiver: Receiver
) -> None:
    """A program that runs lightfill.fal in process leaves its webhooks to a server."""
    from lightfill.engine.fal.client import SyncClient
    from lightfill.engine.fal.runtime import shutdown

    client = SyncClient(settings=settings)
    handle = client.submit(ENDPOINT, {"prompt": "go"}, webhook_url=receiver.url)
    assert handle.get() == OUTPUT
    receiver.stays_at(0, 0.2)
    with running(replace(settings, workers=0), webhooks=QUICK):
        (told,) = receiver.wait_for(1)
    assert told.body["request_id"] == handle.request_id
    shutdown()


@pytest.mark.parametrize(
    ("private", "webhook", "says"),
    [
        (True, "ftp://a.test/", "neither http nor https"),
        (True, "", "neither http nor https"),
        (False, "http://127.0.0.1/", "is not on the public internet"),
    ],
)
def test_a_url_that_cannot_be_called_is_refused_at_once(
    settings: Settings,
    scripted: type[ScriptedEndpoint],
    private: bool,
    webhook: str,
    says: str,
) -> None:
    with (
        running(replace(settings, allow_private_addresses=private)) as server,
        server.client() as client,
    ):
        reply = client.post(
            f"/queue/{ENDPOINT}", json={"prompt": "go"}, params={"fal_webhook": webhook}
        )
        assert server.site.queue.load() == (0, 0, 0)
    assert reply.status_code == 422
    (item,) = reply.json()["detail"]
    assert item["loc"] == ["query", "fal_webhook"]
    assert says in item["msg"]
    assert reply.headers["x-fal-billable-units"] == "0"


def test_a_name_that_leads_inside_is_given_up_with_the_reason(
    settings: Settings, scripted: type[ScriptedEndpoint], receiver: Receiver
) -> None:
    """What a name leads to shows when it is resolved, at the attempt."""
    policy = replace(QUICK, resolve=lambda host, port: ["127.0.0.1"])
    with running(replace(settings, allow_private_addresses=False), webhooks=policy) as server:
        request_id = submit(server, "go", f"http://inside.test:{receiver.port}/")
        until(lambda: attempts(server, "given_up") == 1)
        reason = "webhook given up: inside.test is not on the public internet"
        assert logs(server, request_id)[-1] == reason
        assert attempts(server, "failed") == 0
    assert receiver.told == []


@pytest.mark.parametrize("path", JWKS_PATHS)
def test_the_keys_are_public_cacheable_and_padded(hooked: RunningServer, path: str) -> None:
    with hooked.client() as client:
        reply = client.get(path)
        again = client.get(path)
    assert reply.json() == again.json()
    assert reply.headers["cache-control"] == "public, max-age=3600"
    (key,) = reply.json()["keys"]
    assert (key["kty"], key["crv"], len(key["x"])) == ("OKP", "Ed25519", 44)
    assert len(base64.urlsafe_b64decode(key["x"])) == 32
    assert key["kid"]
    assert set(key) == {"kty", "crv", "use", "x", "kid"}, "nothing private"


def test_the_key_outlives_the_server(settings: Settings, scripted: type[ScriptedEndpoint]) -> None:
    found = []
    for _ in range(2):
        with running(settings) as server:
            found.append(httpx2.get(server.origin + JWKS_PATHS[0]).json())
    assert found[0] == found[1]


def test_what_was_tampered_with_does_not_verify(hooked: RunningServer, receiver: Receiver) -> None:
    submit(hooked, "go", receiver.url)
    (told,) = receiver.wait_for(1)
    keys = hooked.origin + JWKS_PATHS[0]
    assert verified(keys, told)
    headers = dict(told.headers)
    later = str(int(headers["x-fal-webhook-timestamp"]) + 1)
    old = str(int(headers["x-fal-webhook-timestamp"]) - 301)
    wrong: list[Told] = [
        replace(told, content=told.content + b" "),
        replace(told, headers={**headers, "x-fal-webhook-user-id": "somebody"}),
        replace(told, headers={**headers, "x-fal-webhook-request-id": "another"}),
        replace(told, headers={**headers, "x-fal-webhook-timestamp": later}),
        replace(told, headers={**headers, "x-fal-webhook-timestamp": old}),
        replace(told, headers={**headers, "x-fal-webhook-signature": "00" * 64}),
        replace(told, headers={}),
    ]
    assert not any(verified(keys, each) for each in wrong)


def test_a_server_that_stops_lets_attempts_under_way_end(
    settings: Settings, scripted: type[ScriptedEndpoint], receiver: Receiver
) -> None:
    gate = threading.Event()
    receiver.answer = lambda _: (gate.wait(20), 200)[1]
    with running(settings, webhooks=QUICK) as server:
        submit(server, "go", receiver.url)
        receiver.wait_for(1)
        threading.Timer(0.3, gate.set).start()
    assert attempts(server, "delivered") == 1
    with running(settings, webhooks=QUICK):
        receiver.stays_at(1, 0.3)
