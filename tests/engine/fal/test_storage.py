"""Stored files: whole or absent, found by URL only, seen by their owner only, gone when expired."""

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightfill.engine.errors import FileDownloadError, FileTooLarge, InvalidInput, StorageError
from lightfill.engine.fal.storage import Storage, StoredFile

MAX_BYTES = 1000


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "files", MAX_BYTES)


def put(storage: Storage, data: bytes = b"abc", owner: str | None = None) -> StoredFile:
    return storage.store(data, "image/png", "cat.png", owner, 60)


def everything(storage: Storage) -> list[Path]:
    return [path for path in storage.root.rglob("*") if path.is_file()]


def test_what_is_stored_is_read_back(storage: Storage) -> None:
    stored = put(storage, owner="me")
    again = storage.open(stored.name, "me", "f")
    assert again == stored
    assert (again.content_type, again.size, again.file_name) == ("image/png", 3, "cat.png")
    assert storage.read(again, "f") == b"abc"
    assert stored.name.endswith(".png")
    assert Storage(storage.root, MAX_BYTES).open(stored.name, "me", "f") == stored


def test_names_are_128_random_bits(storage: Storage) -> None:
    names = {put(storage).name.partition(".")[0] for _ in range(50)}
    assert len(names) == 50
    assert all(len(bytes.fromhex(name)) == 16 for name in names)


def test_owners_see_their_own_and_ownerless_files(storage: Storage) -> None:
    mine, anyones = put(storage, owner="me"), put(storage)
    for owner in ("me", None):
        assert storage.open(mine.name, owner, "f") == mine
    assert storage.open(anyones.name, "me", "f") == anyones
    with pytest.raises(FileDownloadError) as foreign:
        storage.open(mine.name, "you", "f")
    with pytest.raises(FileDownloadError) as unknown:
        storage.open("0" * 32 + ".png", "you", "f")
    assert str(foreign.value) == str(unknown.value)


@given(st.text() | st.sampled_from(["..", "../x", "/etc/passwd", "a" * 32, "0" * 32 + ".png\n"]))
def test_no_name_leads_out_of_the_directory(name: str) -> None:
    storage = Storage(Path(__file__).parent, MAX_BYTES)
    with pytest.raises(FileDownloadError, match="no such stored file"):
        storage.open(name, None, "f")


def test_chunks_are_written_up_to_the_limit(storage: Storage) -> None:
    assert storage.store(iter([b"a" * 600, b"b" * 400]), "x/y", None, None, None).size == 1000
    with pytest.raises(FileTooLarge, match="1000 bytes"):
        storage.store(iter([b"a" * 600, b"b" * 401]), "x/y", None, None, None)
    assert len(everything(storage)) == 2, "the file and its record; nothing of the second"


def test_an_upload_that_breaks_off_leaves_nothing(storage: Storage) -> None:
    def broken() -> Iterator[bytes]:
        yield b"abc"
        raise ConnectionResetError

    with pytest.raises(StorageError):
        storage.store(broken(), "x/y", None, None, None)
    assert everything(storage) == []


def test_expired_files_are_unknown_at_once_and_swept_later(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = storage.store(b"a", "text/plain", None, None, 10)
    long = storage.store(b"b", "text/plain", None, None, 1000)
    ever = storage.store(b"c", "text/plain", None, None, None)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11)
    with pytest.raises(FileDownloadError):
        storage.open(short.name, None, "f")
    assert storage.sweep() == 1
    assert storage.sweep() == 0
    assert {path.name for path in everything(storage)} == {
        name for kept in (long, ever) for name in (kept.name, f"{kept.name}.json")
    }
    monkeypatch.setattr(time, "time", lambda: now + 1e10)
    assert storage.sweep() == 1
    assert storage.open(ever.name, None, "f").expires is None


def test_what_killed_processes_left_is_swept_after_an_hour(storage: Storage) -> None:
    stored = put(storage)
    folder = stored.path.parent
    unrecorded = folder / f"{'0' * 32}.png"
    partial = folder / ".abc.partial"
    foreign = folder / "notes.txt"
    for path in (unrecorded, partial, foreign):
        path.write_bytes(b"x")
    assert storage.sweep() == 0
    for path in (unrecorded, partial, foreign, stored.path):
        os.utime(path, (time.time() - 4000, time.time() - 4000))
    assert storage.sweep() == 1
    assert {path.name for path in everything(storage)} == {
        "notes.txt", stored.name, f"{stored.name}.json",
    }  # fmt: skip


def test_a_damaged_record_is_an_unknown_file_and_swept(storage: Storage) -> None:
    stored = put(storage)
    record = stored.path.with_name(f"{stored.name}.json")
    odd = json.dumps({**json.loads(record.read_bytes()), "expires": "soon"}).encode()
    for damage in (b"{", b"[]", b"{}", b'{"name": "x"}', odd):
        record.write_bytes(damage)
        with pytest.raises(FileDownloadError):
            storage.open(stored.name, None, "f")
    assert storage.sweep() == 1
    assert everything(storage) == []


def test_a_file_swept_between_open_and_read(storage: Storage) -> None:
    stored = put(storage)
    stored.path.unlink()
    with pytest.raises(FileDownloadError, match="upload it again"):
        storage.read(stored, "f")
    with pytest.raises(FileDownloadError):
        storage.open(stored.name, None, "f")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"), ("C:\\x\\cat.png", "cat.png"), ('a"\r\nb.png', "ab.png"),
        ("", None), ("x" * 500, "x" * 100), ("\u00fc.png", "\u00fc.png"), ("\ud800.png", ".png"),
    ],
)  # fmt: skip
def test_file_names_are_shown_never_used(storage: Storage, given: str, kept: str | None) -> None:
    stored = storage.store(b"x", "image/png", given, None, None)
    assert storage.open(stored.name, None, "f").file_name == kept


@pytest.mark.parametrize(
    ("content_type", "file_name", "kept", "ending"),
    [
        ("image/jpeg", None, "image/jpeg", "jpg"),
        ("Text/Plain; charset=utf-8", "a.bin", "text/plain", "txt"),
        ("x/y\r\nSet-Cookie: a", "a.safetensors", "application/octet-stream", "bin"),
        ("application/octet-stream", "a.npz", "application/octet-stream", "npz"),
        ("", "noending", "application/octet-stream", "bin"),
    ],
)
def test_content_types_and_endings(
    storage: Storage, content_type: str, file_name: str | None, kept: str, ending: str
) -> None:
    stored = storage.store(b"x", content_type, file_name, None, None)
    assert (stored.content_type, stored.name.partition(".")[2]) == (kept, ending)


def test_a_directory_that_cannot_be_written_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="free space there or set LIGHTFILL_DATA_DIR"):
        put(Storage(tmp_path / "file" / "files", MAX_BYTES))
    assert Storage(tmp_path / "absent", MAX_BYTES).sweep() == 0


def test_a_file_is_never_seen_half_written(storage: Storage) -> None:
    """Readers that look while a slow upload runs see all of it or nothing."""
    started, finish = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"a" * 500
        started.set()
        assert finish.wait(10)
        yield b"b" * 500

    thread = threading.Thread(target=lambda: storage.store(slowly(), "x/y", None, None, None))
    thread.start()
    assert started.wait(10)
    (partial,) = everything(storage)
    assert partial.suffix == ".partial"
    assert storage.sweep() == 0
    finish.set()
    thread.join()
    assert sorted(path.stat().st_size for path in everything(storage))[-1] == 1000


def test_a_reserved_name_is_nothing_until_its_content_is_kept(storage: Storage) -> None:
    reservation = storage.reserve("image/png", "cat.png", "me", 60)
    assert not storage.root.exists()
    with storage.incoming(reservation) as incoming:
        incoming.write(b"abc")
        assert storage.find(reservation.name) is None
        stored = storage.keep(reservation, incoming)
    assert storage.open(reservation.name, "me", "f") == stored
    assert stored.path.read_bytes() == b"abc"


def test_a_reserved_name_is_written_once(storage: Storage) -> None:
    reservation = storage.reserve("image/png", None, None, 60)

    def write(data: bytes) -> StoredFile:
        with storage.incoming(reservation) as incoming:
            incoming.write(data)
            return storage.keep(reservation, incoming)

    assert write(b"abc") == write(b"abc")
    for other in (b"abd", b"abcd", b""):
        with pytest.raises(InvalidInput, match="start another"):
            write(other)
    assert storage.path_of(reservation.name).read_bytes() == b"abc"
    assert len(everything(storage)) == 2


def test_a_disk_that_fills_up_leaves_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        put(storage)
    assert everything(storage) == []


def test_an_empty_file_is_a_file(storage: Storage) -> None:
    assert put(storage, b"").path.read_bytes() == b""
