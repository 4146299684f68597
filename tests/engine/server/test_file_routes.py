"""Stored files on the wire: ranges, caching, safe content types, expiry, who may read."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyed_server import KeyedServer, keyed

from lightfill.engine.server.byte_ranges import NotSatisfiable, satisfiable

CONTENT = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedServer]:
    """A server whose files need their owner's key."""
    with keyed(tmp_path_factory.mktemp("private"), private_files=True, workers=0) as started:
        yield started


@pytest.fixture(scope="module")
def url(keyed_server: KeyedServer) -> str:
    """A file of `mine`."""
    return upload(keyed_server, CONTENT)


def upload(server: KeyedServer, content: bytes, kind: str = "image/png", **headers: str) -> str:
    with server.me as me:
        headers = {"content-type": kind, **headers}
        reply = me.post("/cdn/files/upload", content=content, headers=headers)
    return str(reply.json()["access_url"])


def get(url: str, **headers: str) -> httpx2.Response:
    given = {name.replace("_", "-"): each for name, each in headers.items()}
    return httpx2.get(url, headers=given, verify=False)


def test_whoever_has_the_url_reads_the_file(keyed_server: KeyedServer, url: str) -> None:
    with urlopen(url) as reply:
        assert reply.read() == CONTENT
    with keyed_server.me as me, keyed_server.you as you:
        assert me.get(url).content == CONTENT
        foreign = you.get(url)
        unknown = you.get(f"/files/{'0' * 32}.png")
    assert foreign.status_code == 404
    assert (
        foreign.json() == unknown.json() == {"detail": "There is no such file, or it has expired."}
    )
    assert foreign.headers["cache-control"] == "no-store"
    assert get(url, authorization="Key a:b").status_code == 401


def test_private_files_need_their_owners_key(private: KeyedServer) -> None:
    url = upload(private, b"x")
    with private.me as me, private.you as you, private.nobody as nobody:
        assert me.get(url).content == b"x"
        assert nobody.get(url).status_code == 401
        assert you.get(url).status_code == 404


def test_the_headers_of_a_file(url: str) -> None:
    reply = get(url)
    assert reply.headers["content-type"] == "image/png"
    assert reply.headers["content-length"] == str(len(CONTENT))
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in reply.headers["content-security-policy"]
    assert reply.headers["content-disposition"] == "inline"
    assert "authorization" in reply.headers["vary"].lower()
    head = httpx2.head(url, headers={"range": "bytes=0-0"})
    assert (head.status_code, head.content) == (200, b"")
    each_time = {"date", "x-fal-request-id"}
    assert [each for each in head.headers.items() if each[0] not in each_time] == [
        each for each in reply.headers.items() if each[0] not in each_time
    ]


@pytest.mark.parametrize(
    ("header", "content", "told"),
    [
        ("bytes=0-9", CONTENT[:10], "0-9"), ("bytes=1000-", CONTENT[1000:], "1000-1023"),
        ("bytes=-5", CONTENT[-5:], "1019-1023"), ("bytes=-5000", CONTENT, "0-1023"),
        ("bytes=1020-5000", CONTENT[1020:], "1020-1023"), ("BYTES= 0-0 ,", CONTENT[:1], "0-0"),
        ("bytes=9999-,0-1", CONTENT[:2], "0-1"),
    ],
)  # fmt: skip
def test_a_part_of_a_file(url: str, header: str, content: bytes, told: str) -> None:
    reply = get(url, range=header)
    assert (reply.status_code, reply.content) == (206, content)
    assert reply.headers["content-range"] == f"bytes {told}/1024"
    assert reply.headers["content-length"] == str(len(content))


def test_several_parts_of_a_file(url: str) -> None:
    reply = get(url, range="bytes=0-1,10-11,-1")
    assert reply.status_code == 206
    assert reply.headers["content-type"].startswith("multipart/byteranges; boundary=")
    for told in (b"bytes 0-1/1024", b"bytes 10-11/1024", b"bytes 1023-1023/1024"):
        assert told in reply.content
    assert reply.headers["content-length"] == str(len(reply.content))


@pytest.mark.parametrize("header", ["bytes=1024-", "bytes=5000-6000", "bytes=-0", "bytes=9999-,-0"])
def test_a_part_that_no_file_has(url: str, header: str) -> None:
    reply = get(url, range=header)
    assert reply.status_code == 416
    assert reply.headers["content-range"] == "bytes */1024"
    assert reply.json()["detail"]


@pytest.mark.parametrize(
    "header",
    ["bytes=", "bytes=5-2", "bytes=a-b", "items=0-1", "bytes", "bytes=-", "0-1", "bytes=--1",
     "bytes=1-" + "9" * 5000, "bytes=" + "0-0," * 200],
)  # fmt: skip
def test_a_range_that_says_nothing_is_ignored(url: str, header: str) -> None:
    reply = get(url, range=header)
    assert (reply.status_code, reply.content) == (200, CONTENT)


def test_an_outdated_range_gets_the_whole_file(url: str) -> None:
    etag = get(url).headers["etag"]
    assert get(url, range="bytes=0-0", if_range=etag).content == CONTENT[:1]
    assert get(url, range="bytes=0-0", if_range='"another"').content == CONTENT
    assert get(url, range="bytes=9999-", if_range='"another"').status_code == 200


@given(
    size=st.integers(0, 30),
    ranges=st.lists(
        st.tuples(st.none() | st.integers(0, 40), st.none() | st.integers(0, 40)), max_size=5
    ),
)
def test_ranges_are_read_as_the_rfc_says(
    size: int, ranges: list[tuple[int | None, int | None]]
) -> None:
    written = ["-".join("" if end is None else str(end) for end in each) for each in ranges]
    header = f"bytes={', '.join(written)}"
    malformed = not ranges or any(
        (first is None and last is None)
        or (first is not None and last is not None and last < first)
        for first, last in ranges
    )
    there = [
        text
        for text, (first, last) in zip(written, ranges, strict=True)
        if (first < size if first is not None else bool(last) and size > 0)
    ]
    if malformed:
        assert satisfiable(header, size) is None
    elif there:
        assert satisfiable(header, size) == f"bytes={','.join(there)}"
    else:
        with pytest.raises(NotSatisfiable):
            satisfiable(header, size)


@given(st.text())
def test_no_range_breaks_anything(header: str) -> None:
    try:
        found = satisfiable(header, 10)
    except NotSatisfiable:
        return
    assert found is None or found.startswith("bytes=")


def test_a_reader_who_has_the_file_gets_no_bytes(url: str) -> None:
    etag = get(url).headers["etag"]
    for known in (etag, f'"x", W/{etag}', "*"):
        reply = get(url, if_none_match=known, range="bytes=0-1")
        assert (reply.status_code, reply.content) == (304, b"")
        assert reply.headers["etag"] == etag
        assert reply.headers["cache-control"].startswith("private, max-age=")
    assert get(url, if_none_match='"another"').status_code == 200


def test_a_file_is_cached_no_longer_than_it_lives(
    keyed_server: KeyedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle = '{"expiration_duration_seconds": 100}'
    short = upload(keyed_server, b"x", **{"x-fal-object-lifecycle": lifecycle})
    age_s = int(get(short).headers["cache-control"].rpartition("=")[2])
    assert 50 < age_s <= 100
    assert get(upload(keyed_server, b"x")).headers["cache-control"] == "private, max-age=86400"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 100)
    assert get(short).status_code == 404


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("image/jpeg", True), ("image/webp", True), ("text/plain", True), ("video/mp4", True),
        ("image/svg+xml", False), ("text/html", False), ("application/xhtml+xml", False),
        ("application/pdf", False), ("text/xml", False), ("application/octet-stream", False),
        ("text/html; charset=utf-8", False), ("IMAGE/SVG+XML", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_nothing_that_might_run_is_shown_in_a_browser(
    keyed_server: KeyedServer, kind: str, shown: bool
) -> None:
    reply = get(upload(keyed_server, b"<script>alert(1)</script>", kind))
    assert reply.headers["content-disposition"] == ("inline" if shown else "attachment")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_a_file_is_saved_under_its_own_name(keyed_server: KeyedServer) -> None:
    named: Any = {"x-fal-file-name": '\u00fc "; x="\r.zip'.replace("\r", "").encode()}
    reply = get(upload(keyed_server, b"x", "application/zip", **named))
    assert reply.headers["content-disposition"] == (
        "attachment; filename*=utf-8''%C3%BC%20%3B%20x%3D.zip"
    )


@pytest.mark.parametrize(
    "name",
    ["", "x", "../x", "..%2f..%2fqueue.sqlite3", "../queue.sqlite3", "%2e%2e/queue.sqlite3",
     "a" * 5000, "%00", f"{'0' * 32}.png%0a", "NAME.json", "NAME/", "NAME/x"],
)  # fmt: skip
def test_no_other_file_is_reached(keyed_server: KeyedServer, url: str, name: str) -> None:
    name = name.replace("NAME", url.rpartition("/")[2])
    with keyed_server.me as me:
        request = me.build_request("GET", "/files/x")
        request.url = request.url.copy_with(raw_path=f"/files/{name}".encode())
        reply = me.send(request)
    assert reply.status_code == 404
    assert reply.json()["detail"]


def test_a_file_that_is_lost_is_a_404(keyed_server: KeyedServer) -> None:
    lost = upload(keyed_server, b"x")
    keyed_server.site.files.open(lost).path.unlink()
    assert get(lost).status_code == 404


def test_another_method_is_told_all_that_are_there(url: str) -> None:
    reply = httpx2.delete(url)
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD, PUT")
