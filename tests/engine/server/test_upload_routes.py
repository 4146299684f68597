"""Uploads on the wire: every flow of fal's clients (section 7), and everything that goes wrong."""

import gc
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from keyed_server import KeyedServer, key_id, keyed

from lightfill.engine.fal.incoming import Incoming
from lightfill.engine.server import receiving

LIFECYCLE = "X-Fal-Object-Lifecycle"
SECONDS = '{"expiration_duration_seconds": %s}'


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedServer]:
    """A server whose files may have 1000 bytes; nothing runs jobs there."""
    folder = tmp_path_factory.mktemp("small")
    with keyed(folder, max_upload_bytes=1000, workers=0) as started:
        yield started


def initiate(client: httpx2.Client, **headers: str) -> dict[str, str]:
    body = {"content_type": "image/png", "file_name": "cat.png"}
    reply = client.post("/rest/storage/upload/initiate", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    urls: dict[str, str] = reply.json()
    return urls


def begin(client: httpx2.Client, flavour: str) -> tuple[str, str]:
    """A file in parts: where they go, and where the file will be."""
    if flavour == "rest":
        body = {"content_type": "text/plain", "file_name": "a.txt"}
        urls = client.post("/rest/storage/upload/initiate-multipart", json=body).json()
        return urls["upload_url"], urls["file_url"]
    headers = {"content-type": "text/plain", "x-fal-file-name": "a.txt"}
    begun = client.post("/cdn/files/upload/multipart", headers=headers).json()
    return f"{begun['access_url']}/multipart/{begun['uploadId']}", begun["access_url"]


def until_empty(server: KeyedServer, before: set[Path]) -> None:
    """Wait until no file is there that was not there before."""
    give_up = time.monotonic() + 10
    while left := set(server.files) - before:
        assert time.monotonic() < give_up, left
        time.sleep(0.02)


def test_a_token_is_for_an_hour_in_a_form_every_python_reads(keyed_server: KeyedServer) -> None:
    with keyed_server.me as me:
        query = {"storage_type": "fal-cdn-v3"}
        token = me.post("/rest/storage/auth/token", params=query, json={}).json()
    assert token["token_type"] == "Bearer"
    assert token["base_url"] == f"{keyed_server.origin}/cdn"
    assert token["expires_at"].endswith("+00:00")
    left = datetime.fromisoformat(token["expires_at"]) - datetime.now(UTC)
    assert 3500 < left.total_seconds() <= 3600


@pytest.mark.parametrize("content", [b"", b"a", b"x" * (3 << 20)])
def test_a_file_uploaded_at_once(keyed_server: KeyedServer, content: bytes) -> None:
    headers = {"content-type": "image/png", "x-fal-file-name": "cat.png"}
    with keyed_server.me as me, keyed_server.nobody as nobody:
        url = me.post("/cdn/files/upload", content=content, headers=headers).json()["access_url"]
        assert nobody.get(url).content == content
    stored = keyed_server.site.files.open(url)
    assert (stored.content_type, stored.file_name) == ("image/png", "cat.png")
    assert stored.owner == key_id(keyed_server.mine)


def test_an_upload_is_never_whole_in_memory(
    keyed_server: KeyedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = []
    write = Incoming.write
    monkeypatch.setattr(
        Incoming, "write", lambda self, data: pieces.append(len(data)) or write(self, data)
    )
    with keyed_server.me as me:
        url = initiate(me)["upload_url"]
        assert me.put(url, content=b"x" * (10 << 20)).status_code == 200
    assert sum(pieces) == 10 << 20
    assert max(pieces) <= 2 << 20


def test_a_name_in_utf_8_is_kept(keyed_server: KeyedServer) -> None:
    headers: Any = {"x-fal-file-name": "\u00fcber \u732b.png".encode()}
    with keyed_server.me as me:
        url = me.post("/cdn/files/upload", content=b"x", headers=headers).json()["access_url"]
    assert keyed_server.site.files.open(url).file_name == "\u00fcber \u732b.png"


def test_an_upload_url_needs_no_key_and_makes_one_file(keyed_server: KeyedServer) -> None:
    with keyed_server.me as me, keyed_server.nobody as nobody:
        urls = initiate(me)
        assert nobody.get(urls["file_url"]).status_code == 404
        put = nobody.put(urls["upload_url"], content=iter([b"ab", b"c"]))
        assert (put.status_code, put.json()["file_url"]) == (200, urls["file_url"])
        assert put.headers["content-type"] == "application/json"
        assert nobody.get(urls["file_url"]).content == b"abc"
        again = nobody.put(urls["upload_url"], content=b"abc")
        assert again.status_code == 200, "a client that got no answer repeats its upload"
        other = nobody.put(urls["upload_url"], content=b"abd")
        assert other.status_code == 422
        assert nobody.get(urls["file_url"]).content == b"abc"
    stored = keyed_server.site.files.open(urls["file_url"])
    assert (stored.content_type, stored.owner) == ("image/png", key_id(keyed_server.mine))


def test_an_upload_url_is_for_its_file_alone_and_not_for_ever(
    keyed_server: KeyedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with keyed_server.me as me, keyed_server.nobody as nobody:
        one, other = initiate(me), initiate(me)
        permission = one["upload_url"].partition("?")[2]
        for url in (
            f"{other['file_url']}?{permission}", f"{one['file_url']}?upload=",
            one["file_url"], f"{one['upload_url']}x", f"{one['file_url']}?upload=%ff%00",
            f"{one['file_url']}/multipart/{permission.removeprefix('upload=')}/1",
        ):  # fmt: skip
            assert nobody.put(url, content=b"x").status_code == 404, url
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3601)
        assert nobody.put(one["upload_url"], content=b"x").status_code == 404


@pytest.mark.parametrize("flavour", ["rest", "cdn"])
def test_a_file_in_parts(keyed_server: KeyedServer, flavour: str) -> None:
    with keyed_server.me as me, keyed_server.nobody as nobody:
        upload, url = begin(me, flavour)
        pieces = {2: b"b" * 200_000, 1: b"a" * 100_000, 3: b"c"}
        listed = []
        for number, content in pieces.items():
            reply = nobody.put(f"{upload}/{number}", content=content)
            assert reply.status_code == 200
            assert reply.json()["partNumber"] == number
            assert reply.headers["etag"] == f'"{reply.json()["etag"]}"'
            etag = reply.headers["etag"] if flavour == "cdn" else reply.json()["etag"]
            listed.append({"partNumber": number, "etag": etag})
        assert nobody.get(url).status_code == 404
        done = nobody.post(f"{upload}/complete", json={"parts": listed})
        assert (done.status_code, done.json()["access_url"]) == (200, url)
        assert nobody.post(f"{upload}/complete", json={"parts": listed}).status_code == 200
        assert nobody.get(url).content == pieces[1] + pieces[2] + pieces[3]
    assert keyed_server.site.files.open(url).owner == key_id(keyed_server.mine)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"parts": []}, "parts"), ({}, "parts"), ({"parts": "x"}, "parts"), ([], "body"),
        ({"parts": [{"partNumber": 0, "etag": "x"}]}, "partNumber"),
        ({"parts": [{"partNumber": 1}]}, "etag"),
        ({"parts": [{"partNumber": 2, "etag": "ONE"}]}, "parts"),
        ({"parts": [{"partNumber": 1, "etag": "../../x"}]}, "parts"),
        ({"parts": [{"partNumber": 1, "etag": "ONE"}] * 2}, "parts"),
        ({"parts": [{"partNumber": 1, "etag": "ONE"}, {"partNumber": 3, "etag": "ONE"}]}, "parts"),
    ],
)  # fmt: skip
def test_parts_that_are_not_all_there_make_no_file(
    keyed_server: KeyedServer, body: Any, field: str
) -> None:
    with keyed_server.me as me, keyed_server.nobody as nobody:
        upload, url = begin(me, "rest")
        etag = nobody.put(f"{upload}/1", content=b"x").json()["etag"]
        text = json.dumps(body).replace("ONE", etag)
        reply = nobody.post(f"{upload}/complete", content=text)
        assert reply.status_code == 422
        assert reply.json()["detail"][0]["loc"][-1] == field
        assert nobody.get(url).status_code == 404


def test_a_list_of_parts_has_a_limit_of_its_own(keyed_server: KeyedServer) -> None:
    with keyed_server.me as me:
        upload, _ = begin(me, "rest")
        assert me.post(f"{upload}/complete", content=b" " * (5 << 20)).status_code == 413


@pytest.mark.parametrize(
    ("number", "status"),
    [("0", 422), ("10001", 422), ("9" * 20, 422), ("-1", 404), ("x", 404), ("1.5", 404)],
)
def test_parts_are_numbered_from_one(keyed_server: KeyedServer, number: str, status: int) -> None:
    with keyed_server.me as me:
        upload, _ = begin(me, "rest")
        assert me.put(f"{upload}/{number}", content=b"x").status_code == status


def test_what_is_too_large_is_a_413_and_leaves_nothing(small: KeyedServer) -> None:
    before = set(small.files)
    with small.me as me:
        upload = me.post("/cdn/files/upload", content=b"x" * 1001)
        chunked = me.post("/cdn/files/upload", content=iter([b"x" * 600] * 2))
        url = initiate(me)["upload_url"]
        for reply in (upload, chunked, me.put(url, content=b"x" * 1001)):
            assert reply.status_code == 413
            assert "1000 bytes" in reply.json()["detail"]
        until_empty(small, before)
        assert me.put(url, content=b"x" * 1000).status_code == 200


def test_the_limit_is_for_all_parts_together(small: KeyedServer) -> None:
    with small.me as me:
        upload, url = begin(me, "cdn")
        etag = me.put(f"{upload}/1", content=b"x" * 600).json()["etag"]
        assert me.put(f"{upload}/2", content=b"x" * 401).status_code == 413
        assert me.put(f"{upload}/2", content=iter([b"x" * 200] * 3)).status_code == 413
        assert me.put(f"{upload}/2", content=b"x" * 400).status_code == 200
        parts = [{"partNumber": 1, "etag": etag}]
        assert me.post(f"{upload}/complete", json={"parts": parts}).status_code == 200
        assert me.get(url).content == b"x" * 600


@pytest.mark.parametrize("target", ["/cdn/files/upload", "one file", "part"])
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_caller_who_leaves_leaves_nothing(
    keyed_server: KeyedServer, target: str, ending: str
) -> None:
    with keyed_server.me as me:
        if target == "one file":
            target = initiate(me)["upload_url"]
        elif target == "part":
            target = f"{begin(me, 'rest')[0]}/1"
    before = set(keyed_server.files)
    path = target.removeprefix(keyed_server.origin)
    method = "POST" if path.startswith("/cdn") else "PUT"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000000\r\n"
        f"Authorization: Key {keyed_server.mine}\r\n\r\n"
    )
    port = urlsplit(keyed_server.origin).port
    with socket.create_connection(("127.0.0.1", port or 0)) as caller:
        caller.sendall(head.encode() + b"x" * 2_500_000)
        give_up = time.monotonic() + 10
        while not set(keyed_server.files) - before:
            assert time.monotonic() < give_up, "nothing was begun"
            time.sleep(0.01)
        if ending == "reset":
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until_empty(keyed_server, before)


def test_an_upload_that_is_longer_than_announced_is_none(keyed_server: KeyedServer) -> None:
    with keyed_server.me as me:
        urls = initiate(me)
    before = set(keyed_server.files)
    path = urls["upload_url"].removeprefix(keyed_server.origin)
    port = urlsplit(keyed_server.origin).port
    with socket.create_connection(("127.0.0.1", port or 0)) as caller:
        head = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\n"
        caller.sendall(head.encode() + b"abcde")
        reply = b""
        while data := caller.recv(65536):
            reply += data
    assert reply.startswith(b"HTTP/1.1 400")
    until_empty(keyed_server, before)
    assert httpx2.get(urls["file_url"]).status_code == 404


def test_a_sender_who_falls_silent_is_let_go(
    keyed_server: KeyedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "_SILENCE_S", 0.2)
    before = set(keyed_server.files)

    def slowly() -> Iterator[bytes]:
        yield b"x" * 2_000_000
        time.sleep(1)
        yield b"x"

    with keyed_server.me as me:
        reply = me.post("/cdn/files/upload", content=slowly())
    assert reply.status_code == 408
    until_empty(keyed_server, before)


def test_a_slow_sender_holds_no_thread(keyed_server: KeyedServer) -> None:
    """As many as would use up every thread send and pause; others are served meanwhile."""
    head = (
        "POST /cdn/files/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n"
        f"Authorization: Key {keyed_server.mine}\r\n\r\nabc"
    )
    port = urlsplit(keyed_server.origin).port or 0
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(50)
        ]
        for each in slow:
            each.sendall(head.encode())
        with keyed_server.me as me:
            start = time.monotonic()
            assert me.post("/cdn/files/upload", content=b"quick").status_code == 200
            assert time.monotonic() - start < 5
        before = set(keyed_server.files)
        for each in slow:
            each.sendall(b"defghi")
        for each in slow:
            assert b"200 OK" in each.recv(4096)
        assert len(set(keyed_server.files) - before) == 2 * 50


@pytest.mark.parametrize("name", [LIFECYCLE, f"{LIFECYCLE}-Preference"])
def test_a_file_lives_as_long_as_its_uploader_says(keyed_server: KeyedServer, name: str) -> None:
    headers = {name: json.dumps({"expiration_duration_seconds": 60, "initial_acl": {}})}
    with keyed_server.me as me:
        uploaded = me.post("/cdn/files/upload", content=b"x", headers=headers).json()["access_url"]
        urls = initiate(me, **headers)
        me.put(urls["upload_url"], content=b"x")
        kept = me.post("/cdn/files/upload", content=b"x").json()["access_url"]
    files = keyed_server.site.files
    for url in (uploaded, urls["file_url"]):
        assert files.open(url).expires == pytest.approx(time.time() + 60, abs=30)
    retention = keyed_server.site.settings.file_retention_s
    assert files.open(kept).expires == pytest.approx(time.time() + retention, abs=30)


@pytest.mark.parametrize(
    ("lifecycle", "status"),
    [
        (SECONDS % "null", 200), (SECONDS % "0", 200), (SECONDS % "0.5", 200), ("{}", 200),
        ('{"initial_acl": {"default": "hide"}}', 200), ("", 200), ("x", 422), ("[]", 422),
        ("[" * 1000, 422), (SECONDS % "-1", 422), (SECONDS % '"1h"', 422), (SECONDS % "NaN", 422),
        (SECONDS % "1e300", 422), (SECONDS % "true", 422), (SECONDS % ("1" + "0" * 400), 422),
    ],
)  # fmt: skip
def test_what_a_lifecycle_may_be(keyed_server: KeyedServer, lifecycle: str, status: int) -> None:
    with keyed_server.me as me:
        reply = me.post("/cdn/files/upload", content=b"x", headers={LIFECYCLE: lifecycle})
    assert reply.status_code == status
    if status == 422:
        assert reply.json()["detail"][0]["loc"] == ["header", LIFECYCLE.lower()]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"content_type": 1}', b'{"file_name": ["a"]}', b'"x"', b"\xff"]
)
def test_an_announcement_that_is_wrong_is_a_422(keyed_server: KeyedServer, body: bytes) -> None:
    with keyed_server.me as me:
        for path in ("initiate", "initiate-multipart"):
            reply = me.post(f"/rest/storage/upload/{path}", content=body)
            assert reply.status_code == 422
            assert reply.json()["detail"][0]["loc"][0] == "body"


def test_a_full_disk_is_told_and_leaves_nothing(
    keyed_server: KeyedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = set(keyed_server.files)
    with keyed_server.me as me, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        reply = me.post("/cdn/files/upload", content=b"x")
    assert reply.status_code == 500
    assert "No space left" in reply.json()["detail"]
    until_empty(keyed_server, before)


@contextmanager
def unclosed_sockets() -> Iterator[None]:
    """fal_client never closes its connections."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def test_fals_python_client_uploads_in_all_its_ways(
    keyed_server: KeyedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """fal_client itself, unmodified but for its constants (section 2, method A)."""
    import fal_client
    import fal_client.client as constants

    monkeypatch.setattr(constants, "REST_URL", f"{keyed_server.origin}/rest")
    monkeypatch.setattr(constants, "CDN_URL", f"{keyed_server.origin}/cdn")
    monkeypatch.setattr(constants, "MULTIPART_THRESHOLD", 1000)
    monkeypatch.setattr(constants, "MULTIPART_CHUNK_SIZE", 700)
    large = tmp_path / "large.txt"
    large.write_bytes(bytes(range(256)) * 20)
    with keyed_server.nobody as nobody, unclosed_sockets():
        client = fal_client.SyncClient(key=keyed_server.mine)
        hour = fal_client.StorageSettings(expires_in="1h")
        for url, content in (
            (client.upload(b"abc", "text/plain", "a.txt", lifecycle=hour), b"abc"),
            (client.upload(b"abc", "text/plain", "a.txt", repository="fal"), b"abc"),
            (client.upload_file(large), large.read_bytes()),
        ):
            assert nobody.get(url).content == content
            assert keyed_server.site.files.open(url).owner == key_id(keyed_server.mine)
        del client
