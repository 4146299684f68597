"""Browsers on other sites: every route answers preflights, and every reply can be read."""

from pathlib import Path

import httpx2
import pytest
from keyed_server import KeyedServer, keyed
from running_server import ENDPOINT

ORIGIN = {"origin": "https://app.example"}
QUEUE = "/queue/fal-ai/fast-lightning-sdxl"
NEEDED = {"x-fal-request-id", "etag", "x-fal-error-type", "x-fal-request-timeout-type"}


def readable(reply: httpx2.Response) -> bool:
    exposed = reply.headers.get("access-control-expose-headers", "")
    names = {name.strip() for name in exposed.split(",")}
    return reply.headers.get("access-control-allow-origin") == "*" and names >= NEEDED


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/queue/{ENDPOINT}"), ("POST", f"/run/{ENDPOINT}"),
        ("GET", f"{QUEUE}/requests/x"),
        ("GET", f"{QUEUE}/requests/x/status/stream"), ("PUT", f"{QUEUE}/requests/x/cancel"),
        ("POST", "/rest/storage/auth/token"), ("POST", "/rest/storage/upload/initiate"),
        ("POST", "/cdn/files/upload"), ("GET", "/files/x.png"), ("PUT", "/files/x.png?upload=x"),
        ("PUT", "/files/x.png/multipart/x/1"), ("POST", "/files/x.png/multipart/x/complete"),
        ("POST", "/api/fal/proxy"), ("GET", "/nothing/here"),
    ],
)  # fmt: skip
def test_a_preflight_needs_no_key(keyed_server: KeyedServer, method: str, path: str) -> None:
    asked = (
        "authorization,content-type,accept,x-fal-queue-priority,x-fal-target-url,"
        "x-fal-request-timeout,x-fal-runner-hint,x-fal-object-lifecycle,x-fal-file-name"
    )
    headers = {
        **ORIGIN, "access-control-request-method": method, "access-control-request-headers": asked
    }  # fmt: skip
    with keyed_server.nobody as nobody:
        reply = nobody.request("OPTIONS", path, headers=headers)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "*"
    allowed = reply.headers["access-control-allow-headers"].replace(" ", "").split(",")
    assert set(asked.split(",")) <= set(allowed), "a wildcard would not cover authorization"
    assert method in reply.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in reply.headers


def test_every_reply_is_readable_errors_included(
    keyed_server: KeyedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    with keyed_server.me as me, keyed_server.nobody as nobody:
        too_long = b" " * (keyed_server.site.settings.max_request_bytes + 1)
        url = me.post("/cdn/files/upload", content=b"abc", headers=ORIGIN).json()["access_url"]
        file = nobody.get(url, headers=ORIGIN)
        known = {"if-none-match": file.headers["etag"]}
        parts = me.post("/rest/storage/upload/initiate-multipart", json={}).json()["upload_url"]
        replies = {
            200: file,
            206: nobody.get(url, headers={**ORIGIN, "range": "bytes=0-0"}),
            304: nobody.get(url, headers=ORIGIN | known),
            400: nobody.get("/api/fal/proxy", headers=ORIGIN),
            401: nobody.get(f"{QUEUE}/requests/x", headers=ORIGIN),
            404: me.get(f"{QUEUE}/requests/x", headers=ORIGIN),
            405: me.delete("/health", headers=ORIGIN),
            413: me.post(f"/queue/{ENDPOINT}", headers=ORIGIN, content=too_long),
            416: nobody.get(url, headers={**ORIGIN, "range": "bytes=9-"}),
            422: me.post(f"/queue/{ENDPOINT}", headers=ORIGIN),
        }
        monkeypatch.setattr(keyed_server.site.service, "glance", broken)
        replies[500] = me.get(f"{QUEUE}/requests/x/status", headers=ORIGIN)
        part = nobody.put(f"{parts}/1", content=b"x", headers=ORIGIN)
    assert part.headers["etag"]
    for reply in (*replies.values(), part):
        assert readable(reply), reply
        assert reply.headers["x-fal-request-id"]
    assert {code: reply.status_code for code, reply in replies.items()} == {
        code: code for code in replies
    }
    for code, reply in replies.items():
        if code >= 400:
            assert reply.headers["content-type"] == "application/json"
            assert reply.json()["detail"]


def test_only_the_sites_that_were_named_may_read(tmp_path: Path) -> None:
    with (
        keyed(
            tmp_path, cors_origins="https://app.example, https://b.example/", workers=0
        ) as server,
        server.nobody as nobody,
    ):
        for origin in ("https://app.example", "https://b.example"):
            reply = nobody.get(f"{QUEUE}/requests/x", headers={"origin": origin})
            assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (
                401,
                origin,
            )
            assert "Origin" in reply.headers["vary"]
        foreign = nobody.get(f"{QUEUE}/requests/x", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        preflight = nobody.request("OPTIONS", f"/queue/{ENDPOINT}", headers=asked)
        assert preflight.status_code == 400
        assert "access-control-allow-origin" not in preflight.headers
