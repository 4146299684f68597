"""Fetching: what arrives, who is asked, what is sent, and that every limit counts for all hops."""

import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from hostile_server import HostileServer, ok, picture, redirect, repeating, serving

from lightfill.engine.errors import FileDownloadError, FileTooLarge
from lightfill.engine.fal.fetch import Fetcher
from lightfill.engine.fal.settings import Settings

SETTINGS = Settings(data_dir=Path("unused"), allow_private_addresses=True, download_timeout_s=5)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with serving("127.0.0.1") as running:
        yield running


class Names:
    """A resolver that knows every name and counts who asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses or ("127.0.0.1",))
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.addresses


def test_a_file_arrives_and_the_request_says_who_asks_for_what(server: HostileServer) -> None:
    names = Names()
    url = f"http://a.test:{server.port}/good"
    assert Fetcher(SETTINGS, names).fetch(url, "image_url") == picture()
    assert names.asked == ["a.test"]
    (request,) = server.requests
    line, *headers = request.decode().strip().split("\r\n")
    assert line == "GET /good HTTP/1.1"
    assert sorted(headers) == [
        "Accept-Encoding: identity",
        "Accept: */*",
        "Connection: close",
        f"Host: a.test:{server.port}",
        "User-Agent: lightfill (+https://github.com/lightfill/lightfill)",
    ]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_each_hop_resolves_once(
    server: HostileServer, status: int
) -> None:
    server.replies["from"] = redirect(f"http://b.test:{server.port}/good", status)
    names = Names()
    url = f"http://a.test:{server.port}/from"
    assert Fetcher(SETTINGS, names).fetch(url, "image_url") == picture()
    assert names.asked == ["a.test", "b.test"]


def test_as_many_redirects_as_allowed(server: HostileServer) -> None:
    for hop in range(5):
        server.replies[f"hop{hop}"] = redirect(f"/hop{hop + 1}")
    server.replies["hop5"] = ok(b"there")
    start = f"http://127.0.0.1:{server.port}/hop0"
    assert Fetcher(SETTINGS).fetch(start, "image_url") == b"there"
    with pytest.raises(FileDownloadError, match="redirects more than 4 times"):
        Fetcher(replace(SETTINGS, max_redirects=4)).fetch(start, "image_url")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(picture())),
        ("x-gzip", gzip.compress(picture())),
        ("GZIP", gzip.compress(bytes(3_000_000))),
        ("deflate", zlib.compress(bytes(1 << 18))),
        ("identity", picture()),
    ],
)
def test_compression_nobody_asked_for(server: HostileServer, encoding: str, body: bytes) -> None:
    server.replies["packed"] = ok(body, f"Content-Encoding: {encoding}")
    fetched = Fetcher(SETTINGS).fetch(f"http://127.0.0.1:{server.port}/packed", "image_url")
    assert fetched == (body if encoding == "identity" else zlib.decompress(body, 47))


def test_the_byte_limit_is_exact(server: HostileServer) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    url = f"http://127.0.0.1:{server.port}/"
    server.replies["length"] = ok(b"x" * 1000)
    server.replies["chunks"] = chunked % (1000, b"x" * 1000)
    server.replies["packed"] = ok(gzip.compress(b"x" * 1000), "Content-Encoding: gzip")
    for path in ("length", "chunks", "packed"):
        fits = Fetcher(replace(SETTINGS, max_download_bytes=1000)).fetch(url + path, "f")
        assert fits == b"x" * 1000
        with pytest.raises(FileTooLarge, match="more than 999 bytes") as caught:
            Fetcher(replace(SETTINGS, max_download_bytes=999)).fetch(url + path, "f")
        assert caught.value.context == {"max_size": 999}


def test_the_deadline_is_for_all_redirects_together(server: HostileServer) -> None:
    def slowly(connection: socket.socket) -> None:
        time.sleep(0.3)
        connection.sendall(redirect("/slow"))

    server.replies["slow"] = slowly
    fetcher = Fetcher(replace(SETTINGS, download_timeout_s=0.7, max_redirects=50))
    start = time.perf_counter()
    with pytest.raises(FileDownloadError, match=r"took more than 0\.7 s"):
        fetcher.fetch(f"http://127.0.0.1:{server.port}/slow", "image_url")
    assert 0.6 < time.perf_counter() - start < 10  # 50 redirects would take 15


def test_an_address_that_does_not_answer_leaves_time_for_the_next(server: HostileServer) -> None:
    closed = "127.0.0.3"  # nothing listens there
    names = Names(closed, "127.0.0.1")
    url = f"http://a.test:{server.port}/good"
    assert Fetcher(SETTINGS, names).fetch(url, "image_url") == picture()
    assert names.asked == ["a.test"]


def test_one_private_address_among_public_ones_refuses_them_all(server: HostileServer) -> None:
    fetcher = Fetcher(replace(SETTINGS, allow_private_addresses=False), Names("1.1.1.1", "::1"))
    with pytest.raises(FileDownloadError, match=r"a\.test is not on the public internet") as error:
        fetcher.fetch(f"http://a.test:{server.port}/good", "image_url")
    assert "::1" not in str(error.value), "the resolver's answer is not told"
    assert server.connections == 0


def test_no_proxy_of_the_environment_is_asked(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Fetcher(SETTINGS).fetch(f"http://127.0.0.1:{server.port}/good", "f") == picture()


def test_threads_share_a_fetcher(server: HostileServer) -> None:
    fetcher = Fetcher(SETTINGS)
    got: list[bytes] = []

    def fetch() -> None:
        got.append(fetcher.fetch(f"http://127.0.0.1:{server.port}/good", "f"))

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [picture()] * 8


def test_no_connection_is_left_open(server: HostileServer) -> None:
    closed = threading.Event()

    def endless(connection: socket.socket) -> None:
        try:
            reply = repeating(b"HTTP/1.1 200 OK\r\n\r\n", bytes(1 << 16))
            assert callable(reply)
            reply(connection)
        except OSError:
            closed.set()
            raise

    server.replies["endless"] = endless
    with pytest.raises(FileTooLarge):
        Fetcher(replace(SETTINGS, max_download_bytes=1 << 16)).fetch(
            f"http://127.0.0.1:{server.port}/endless", "f"
        )
    assert closed.wait(5)


class TlsServer:
    """One HTTPS answer for each connection; remembers the SNI each client sent."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        self.names: list[str | None] = []
        self.requests: list[bytes] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._context.sni_callback = lambda _, name, __: self.names.append(name)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            try:
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    self.requests.append(secure.recv(65536))
                    secure.sendall(ok(picture()))
            except OSError:
                continue  # the client did not like the certificate


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """The only authority that fetchers trust."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


def test_tls_is_verified_for_the_name_though_the_address_is_ours(authority: trustme.CA) -> None:
    server = TlsServer(authority.issue_cert("a.test"))
    fetched = Fetcher(SETTINGS, Names()).fetch(f"https://a.test:{server.port}/x", "image_url")
    assert fetched == picture()
    assert server.names == ["a.test"]
    assert f"\r\nHost: a.test:{server.port}\r\n".encode() in server.requests[0]


@pytest.mark.parametrize("name", ["b.test", "127.0.0.1"])
def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, name: str) -> None:
    server = TlsServer(authority.issue_cert(name))
    with pytest.raises(FileDownloadError, match="TLS failed: Hostname mismatch"):
        Fetcher(SETTINGS, Names()).fetch(f"https://a.test:{server.port}/x", "image_url")
    assert server.requests == []


def test_an_unknown_authority_is_refused(authority: trustme.CA) -> None:
    server = TlsServer(trustme.CA().issue_cert("a.test"))
    with pytest.raises(FileDownloadError, match=r"TLS failed: .*unable to get local issuer"):
        Fetcher(SETTINGS, Names()).fetch(f"https://a.test:{server.port}/x", "image_url")


def test_a_handshake_that_stalls_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://a.test:{silent.getsockname()[1]}/"
        with pytest.raises(FileDownloadError, match=r"took more than 0\.5 s"):
            Fetcher(replace(SETTINGS, download_timeout_s=0.5), Names()).fetch(url, "image_url")
