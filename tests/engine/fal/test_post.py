"""Sending to callers' URLs: who is reached, what is sent, what counts as accepted."""

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme
from hostile_server import HostileServer, ok, redirect, repeating, serving
from webhook_receiver import Receiver, receiving

from lightfill.engine.fal import addresses
from lightfill.engine.fal.post import NotPosted, Poster

HEADERS = [("Content-Type", "application/json"), ("X-Fal-Webhook-User-Id", "k\u00e9y")]


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with serving("127.0.0.1") as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> str:
    """127.0.0.2 stands in for the public internet."""
    if sys.platform != "linux":
        pytest.skip("needs 127.0.0.2 as a second address")
    ordinary = addresses.is_public
    there = ip_address("127.0.0.2")
    monkeypatch.setattr(addresses, "is_public", lambda a: a == there or ordinary(a))
    return "127.0.0.2"


def poster(**options: Any) -> Poster:
    return Poster(**{"timeout_s": 5.0, "allow_private": True, **options})


def refusal(sender: Poster, url: str) -> NotPosted:
    with pytest.raises(NotPosted) as caught:
        sender.post(url, b"{}", HEADERS)
    return caught.value


def test_the_body_arrives_as_it_is(receiver: Receiver) -> None:
    poster().post(f"{receiver.url}/told?x=1", b'{"a":"\xe2\x98\x83"}', HEADERS)
    (told,) = receiver.told
    assert (told.path, told.content) == ("/told?x=1", b'{"a":"\xe2\x98\x83"}')
    assert told.headers["content-type"] == "application/json"
    assert told.headers["content-length"] == "11"
    assert told.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert told.headers["user-agent"].startswith("lightfill")
    assert not {"cookie", "authorization"} & set(told.headers)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_accepted(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _: status
    poster().post(receiver.url, b"{}", HEADERS)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 410, 429, 500, 503])
def test_not_accepted_and_never_followed(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _: status
    receiver.location = f"{receiver.url}/elsewhere"
    problem = refusal(poster(), receiver.url)
    assert f"127.0.0.1 answered with status {status}" in str(problem)
    assert ("redirects are not followed" in str(problem)) == (status < 400)
    assert not problem.hopeless
    receiver.stays_at(1, 0.05)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}/", "http://localhost:{}/", "http://[::1]:{}/", "http://a.test:{}/"]
)
def test_private_addresses_are_never_connected_to(server: HostileServer, url: str) -> None:
    def resolve(host: str, port: int) -> list[str]:
        return ["1.1.1.1", "127.0.0.1"]  # one private address among public ones

    problem = refusal(poster(allow_private=False, resolve=resolve), url.format(server.port))
    assert "is not on the public internet" in str(problem)
    assert problem.hopeless
    assert server.connections == 0


@pytest.mark.parametrize(
    "url", ["ftp://a.test/", "a.test", "http://u:p@a.test/", "http://a.test/\r\nX: y", "", "/told"]
)
def test_what_is_no_url_is_hopeless(url: str) -> None:
    problem = refusal(poster(), url)
    assert str(problem).startswith("the URL ")
    assert problem.hopeless


def test_a_name_that_changes_its_answer_is_resolved_once(internet: str) -> None:
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return [internet] if len(asked) == 1 else ["127.0.0.1"]

    with receiving(internet) as public, serving("127.0.0.1") as canary:
        sender = poster(allow_private=False, resolve=resolve)
        sender.post(f"http://rebind.test:{public.port}/", b"{}", HEADERS)
        assert (len(public.told), asked) == (1, ["rebind.test"])
        problem = refusal(sender, f"http://rebind.test:{canary.port}/")
        assert problem.hopeless
        assert canary.connections == 0


def test_a_redirect_inside_is_not_followed(internet: str) -> None:
    with receiving(internet) as public, serving("127.0.0.1") as canary:
        public.answer = lambda _: 307
        public.location = f"http://127.0.0.1:{canary.port}/secret"
        problem = refusal(poster(allow_private=False), public.url)
        assert "redirects are not followed" in str(problem)
        assert canary.connections == 0


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    problem = refusal(poster(), f"http://127.0.0.1:{port}/")
    assert "127.0.0.1 cannot be reached" in str(problem)
    assert not problem.hopeless


@pytest.mark.parametrize("path", ["silent", "slow-headers", "endless-continue", "not-http"])
def test_servers_that_do_not_answer(server: HostileServer, path: str) -> None:
    start = time.perf_counter()
    problem = refusal(poster(timeout_s=0.5), f"http://127.0.0.1:{server.port}/{path}")
    assert not problem.hopeless
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("path", ["endless-body", "endless-chunks", "gzip-bomb", "short-of-length"])
def test_an_answers_body_is_not_read_to_its_end(server: HostileServer, path: str) -> None:
    """The status has been said: the webhook is delivered, whatever follows."""
    received = threading.Event()

    def endless(connection: socket.socket) -> None:
        try:
            reply = repeating(b"HTTP/1.1 200 OK\r\n\r\n", bytes(1 << 16))
            assert callable(reply)
            reply(connection)
        except OSError:
            received.set()
            raise

    if path == "endless-body":
        server.replies[path] = endless
    poster(timeout_s=2.0).post(f"http://127.0.0.1:{server.port}/{path}", b"{}", HEADERS)
    assert path != "endless-body" or received.wait(5), "the connection is closed"


def test_a_refusal_with_a_long_page_is_a_refusal(server: HostileServer) -> None:
    page = b"<html>" + bytes(100_000)
    server.replies["page"] = ok(page).replace(b"200 OK", b"500 No")
    server.replies["elsewhere"] = redirect("http://127.0.0.1:1/")
    for path, status in (("page", 500), ("elsewhere", 302)):
        problem = refusal(poster(), f"http://127.0.0.1:{server.port}/{path}")
        assert f"status {status}" in str(problem)


def test_tls_is_verified_for_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("a.test").configure_cert(tls)
    with receiving(tls=tls) as receiver:
        sender = poster(resolve=lambda host, port: ["127.0.0.1"])
        sender.post(f"https://a.test:{receiver.port}/", b"{}", HEADERS)
        problem = refusal(sender, f"https://b.test:{receiver.port}/")
        assert "b.test cannot be reached (TLS failed: Hostname mismatch" in str(problem)
        assert len(receiver.told) == 1
