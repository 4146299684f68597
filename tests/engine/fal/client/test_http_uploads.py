"""Uploads to servers: read once, sent whole or in parts, sent again where that helps."""

import json
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Answer, Script, served

from lightfill.engine.fal import http_uploads, retries
from lightfill.engine.fal.http_transport import HttpTransport

from .conftest import Somewhere

NAME = "0123456789abcdef0123456789abcdef.bin"
FILE = f"http://elsewhere/files/{NAME}"
INITIATE = ("POST", "/rest/storage/upload/initiate")
INITIATE_PARTS = ("POST", "/rest/storage/upload/initiate-multipart")
PUT = ("PUT", f"/files/{NAME}")
PART = f"/files/{NAME}/multipart/sealed"
GIVEN = Answer(200, {"upload_url": f"{FILE}?upload=sealed", "file_url": FILE})
GIVEN_PARTS = Answer(200, {"upload_url": f"{FILE}/multipart/sealed?x=1", "file_url": FILE})
KEPT = Answer(200, {"access_url": FILE})


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of four bytes, and no pause before another attempt."""
    monkeypatch.setattr(http_uploads, "PART_BYTES", 4)
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.0)


def part(number: int) -> Answer:
    return Answer(200, {"partNumber": number, "etag": f"tag{number}"})


def in_parts(count: int) -> dict[tuple[str, str], list[Answer]]:
    """A server that takes `count` parts."""
    parts = {("PUT", f"{PART}/{number}"): [part(number)] for number in range(1, count + 1)}
    return {INITIATE_PARTS: [GIVEN_PARTS], ("POST", f"{PART}/complete"): [KEPT], **parts}


@given(st.lists(st.binary(max_size=13)))
def test_pieces_are_cut_to_parts_and_nothing_is_lost(pieces: list[bytes]) -> None:
    parts = list(http_uploads._parts(pieces))
    assert b"".join(parts) == b"".join(pieces)
    assert all(len(each) == http_uploads.PART_BYTES for each in parts[:-1])
    assert all(parts)


@pytest.mark.parametrize("content", [b"", b"abcd"])
def test_a_small_file_is_put_where_the_server_says_by_the_caller_s_own_name(
    fal_module: ModuleType, content: bytes
) -> None:
    with served(Script({INITIATE: [GIVEN], PUT: [KEPT]})) as script:
        client = fal_module.SyncClient(base_url=script.origin)
        assert client.upload(content, "text/plain", "größe.txt") == FILE
        assert script.asked == [INITIATE, PUT]
        announced = json.loads(script.bodies[0])
        assert announced == {"file_name": "größe.txt", "content_type": "text/plain"}
        assert script.bodies[1] == content
        assert script.headers[1]["content-type"] == "text/plain"
        assert "x-fal-object-lifecycle" not in script.headers[0]
        fal_module.shutdown()


def test_how_long_it_is_kept_is_told(fal_module: ModuleType) -> None:
    with served(Script({INITIATE: [GIVEN], PUT: [KEPT]})) as script:
        lifecycle = fal_module.StorageSettings(expires_in=60)
        client = fal_module.SyncClient(base_url=script.origin)
        client.upload(b"x", "text/plain", lifecycle=lifecycle)
        preference = script.headers[0]["x-fal-object-lifecycle-preference"]
        assert json.loads(preference) == {"expiration_duration_seconds": 60}
        fal_module.shutdown()


def test_a_large_file_goes_in_parts_each_sent_again_if_it_is_lost(fal_module: ModuleType) -> None:
    answers = in_parts(3)
    answers["PUT", f"{PART}/2"] = [Answer(None), Answer(429, {"detail": "busy"}), part(2)]
    with served(Script(answers)) as script:
        client = fal_module.SyncClient(base_url=script.origin)
        assert client.upload(b"0123456789", "text/plain") == FILE
        numbers = [path.rpartition("/")[2] for _, path in script.asked[1:]]
        assert numbers == ["1", "2", "2", "2", "3", "complete"]
        assert script.bodies[1:6] == [b"0123", b"4567", b"4567", b"4567", b"89"]
        listed = [{"partNumber": n, "etag": f"tag{n}"} for n in (1, 2, 3)]
        assert json.loads(script.bodies[-1]) == {"parts": listed}
        fal_module.shutdown()


@pytest.mark.parametrize(
    "refusing", [INITIATE_PARTS, ("PUT", f"{PART}/2"), ("POST", f"{PART}/complete")]
)
def test_a_refusal_ends_the_upload(fal_module: ModuleType, refusing: tuple[str, str]) -> None:
    answers = {**in_parts(3), refusing: [Answer(413, {"detail": "too large"})]}
    with served(Script(answers)) as script:
        with pytest.raises(fal_module.FalClientHTTPError, match="too large") as caught:
            fal_module.SyncClient(base_url=script.origin).upload(b"0123456789", "text/plain")
        assert caught.value.status_code == 413
        assert script.asked[-1] == refusing
        fal_module.shutdown()


def test_a_file_is_read_as_it_is_sent() -> None:
    """No more than two parts are ahead of what has been sent."""
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        for _ in range(8):
            read += 1
            yield b"0123"

    with served(Script(in_parts(8))) as script:
        transport = HttpTransport(script.origin, None, 60)
        asked = transport._uploads._ask

        def noted(method: str, url: str, **content: object) -> object:
            if method == "PUT":
                sent = sum(1 for each, _ in script.asked if each == "PUT")
                assert read <= sent + 2
            return asked(method, url, **content)  # type: ignore[arg-type]

        transport._uploads._ask = noted  # type: ignore[assignment]
        assert transport.upload(pieces(), "text/plain", None, None).is_success
        transport.close()
    assert read == 8


def test_a_real_server_joins_the_parts(
    somewhere: Somewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_uploads, "PART_BYTES", 1 << 16)
    content = bytes(range(256)) * 1000
    fal = somewhere.start()
    stored = somewhere.files.open(fal.upload(content, "application/x-large", "größe.bin"))
    assert stored.path.read_bytes() == content
    assert (stored.file_name, stored.content_type) == ("größe.bin", "application/x-large")


def test_a_real_server_keeps_to_the_lifecycle(somewhere: Somewhere) -> None:
    fal = somewhere.start()
    url = fal.upload(b"x", "text/plain", lifecycle=fal.StorageSettings(expires_in="1h"))
    stored = somewhere.files.open(url)
    assert stored.expires is not None
    assert stored.expires - stored.path.stat().st_mtime == pytest.approx(3600, abs=60)
