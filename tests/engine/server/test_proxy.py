"""fal's proxy protocol: one URL for all of fal's hosts, and a way to nowhere else."""

import socket
from typing import Any

import httpx2
import pytest
from keyed_server import KeyedServer, key_id
from scripted_endpoint import OUTPUT

PROXY = "/api/fal/proxy"
ENDPOINT = "fal-ai/fast-lightning-sdxl/inpainting"
REQUESTS = "https://queue.fal.run/fal-ai/fast-lightning-sdxl/requests"


def through(client: httpx2.Client, method: str, target: str, **more: Any) -> httpx2.Response:
    """A request as fal's JavaScript clients send it to a proxy."""
    headers = {"x-fal-target-url": target, "x-fal-client-proxy": "@fal-ai/server-proxy/test"}
    return client.request(method, PROXY, headers=headers | more.pop("headers", {}), **more)


def test_a_request_from_submit_to_result(keyed_server: KeyedServer) -> None:
    with keyed_server.me as me:
        query = "?fal_max_queue_length=100"
        low = {"x-fal-queue-priority": "low"}
        submitted = through(
            me,
            "POST",
            f"https://queue.fal.run/{ENDPOINT}{query}",
            json={"prompt": "go"},
            headers=low,
        )
        assert submitted.status_code == 200, submitted.text
        request_id = submitted.json()["request_id"]
        assert submitted.headers["x-fal-request-id"] == request_id
        stream = through(me, "GET", f"{REQUESTS}/{request_id}/status/stream?logs=1")
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert "step 2/2" in stream.text
        status = through(me, "GET", f"{REQUESTS}/{request_id}/status?logs=1")
        assert [log["message"] for log in status.json()["logs"]] == ["step 1/2", "step 2/2"]
        assert through(me, "GET", f"{REQUESTS}/{request_id}").json() == OUTPUT
        assert through(me, "PUT", f"{REQUESTS}/{request_id}/cancel").status_code == 400


def test_events_come_while_the_request_runs(keyed_server: KeyedServer) -> None:
    with keyed_server.me as me:
        target = f"https://fal.run/{ENDPOINT}/stream"
        headers = {"x-fal-target-url": target}
        arguments = {"image_url": "data:,x", "mask_url": "data:,x", "prompt": "wait"}
        with me.stream("POST", PROXY, headers=headers, json=arguments) as reply:
            for line in reply.iter_lines():
                if "step 1/2" in line:
                    break
            else:
                raise AssertionError("the first step was not told before the last")


@pytest.mark.parametrize("port", ["", ":443"])
def test_a_run(keyed_server: KeyedServer, port: str) -> None:
    with keyed_server.me as me:
        reply = through(me, "POST", f"https://fal.run{port}/{ENDPOINT}/", json={"prompt": "go"})
        assert (reply.status_code, reply.json()) == (200, OUTPUT)


@pytest.mark.parametrize("host", ["rest.fal.ai", "rest.alpha.fal.ai"])
def test_an_upload_begins_in_the_proxy_and_goes_on_without(
    keyed_server: KeyedServer, host: str
) -> None:
    """fal's clients send the content itself with a plain fetch: no key, no proxy."""
    with keyed_server.me as me, keyed_server.nobody as nobody:
        target = f"https://{host}/storage/upload/initiate?storage_type=fal-cdn-v3"
        body = {"content_type": "image/png", "file_name": "cat.png"}
        urls = through(me, "POST", target, json=body).json()
        kind = {"content-type": "image/png"}
        assert nobody.put(urls["upload_url"], content=b"abc", headers=kind).status_code == 200
        assert nobody.get(urls["file_url"]).content == b"abc"
        assert keyed_server.site.files.open(urls["file_url"]).owner == key_id(keyed_server.mine)


@pytest.mark.parametrize("host", ["v3.fal.media", "fal.media"])
def test_the_cdn_is_reached_with_large_bodies_too(keyed_server: KeyedServer, host: str) -> None:
    content = b"x" * (1 << 20)
    with keyed_server.me as me:
        reply = through(me, "POST", f"https://{host}/files/upload", content=content)
        assert me.get(reply.json()["access_url"]).content == content


@pytest.mark.parametrize(
    "target",
    [
        None, "", "x", "/queue/x", "https://example.org/x", "http://queue.fal.run/x", "https:///x",
        "https://queue.fal.run.example.org/x", "https://example.org/queue.fal.run",
        "https://user@queue.fal.run/x", "https://queue.fal.run:8080/x", "https://queue.fal.run:x/",
        "https://queue.fal.run@example.org/x", "ftp://fal.run/x", "https://[fal.run]/x",
        "file:///etc/passwd", "https://fal.run/../queue/x", "https://fal.run/%2e%2e/queue/x",
        "https://127.0.0.1/x", "https://fal.ai/x", "wss://fal.run/x", "https://fal.run\t/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_any_other_target_is_refused_and_nothing_is_fetched(
    keyed_server: KeyedServer, target: str | None, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {} if target is None else {"x-fal-target-url": target}
    with keyed_server.me as me:
        assert me.get("/health").status_code == 200  # connected before
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it connects"))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("it resolves"))
        reply = me.request(method, PROXY, headers=headers)
    assert (reply.status_code, reply.json()) == (400, {"detail": "Invalid request"})
    assert reply.headers["x-fal-request-id"]


def test_two_targets_are_none(keyed_server: KeyedServer) -> None:
    headers = [("x-fal-target-url", f"{REQUESTS}/x")] * 2
    with keyed_server.me as me:
        assert me.get(PROXY, headers=headers).status_code == 400


@pytest.mark.parametrize(
    "target",
    ["https://fal.run/health", "https://rest.fal.ai/../health", "https://queue.fal.run/",
     "https://fal.media/files/x", "https://fal.run//health", "https://fal.run"],
)  # fmt: skip
def test_only_routes_of_fals_hosts_are_behind_it(keyed_server: KeyedServer, target: str) -> None:
    with keyed_server.me as me:
        assert through(me, "GET", target).status_code in {400, 404}


def test_it_is_no_way_around_keys_or_limits(keyed_server: KeyedServer) -> None:
    with keyed_server.nobody as nobody, keyed_server.me as me, keyed_server.you as you:
        target = f"https://queue.fal.run/{ENDPOINT}"
        assert through(nobody, "POST", target, json={"prompt": "go"}).status_code == 401
        request_id = through(me, "POST", target, json={"prompt": "go"}).json()["request_id"]
        assert through(you, "GET", f"{REQUESTS}/{request_id}").status_code == 404
        too_long = b" " * (keyed_server.site.settings.max_request_bytes + 1)
        assert through(me, "POST", target, content=too_long).status_code == 413
