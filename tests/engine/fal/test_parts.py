"""Uploads in parts: any order, any process, whole or nothing, one limit for all of them."""

import shutil
import threading
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightfill.engine.errors import FileTooLarge, InvalidInput, StorageError
from lightfill.engine.fal.parts import PartedUpload, Parts
from lightfill.engine.fal.storage import Storage, StoredFile

MAX_BYTES = 1000


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "files", MAX_BYTES)


@pytest.fixture
def parts(storage: Storage) -> Parts:
    return Parts(storage)


def started(storage: Storage, lives_s: float = 3600) -> PartedUpload:
    reservation = storage.reserve("text/plain", "a.txt", "me", 60)
    return PartedUpload(reservation, int(time.time() + lives_s))


def put(parts: Parts, upload: PartedUpload, number: int, *pieces: bytes) -> str:
    with parts.incoming(upload) as incoming:
        for piece in pieces:
            incoming.write(piece)
        return parts.keep(upload, number, incoming)


def leftovers(storage: Storage) -> list[Path]:
    return [path for path in (storage.root / "parts").rglob("*") if path.is_file()]


@settings(max_examples=25)  # each part is on the disk before the next
@given(
    contents=st.lists(st.binary(max_size=20), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_parts_in_any_order_and_at_any_process_make_the_file(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], order: Random
) -> None:
    root = tmp_path_factory.mktemp("files")
    storage = Storage(root, MAX_BYTES)
    upload = started(storage)
    numbers = list(range(1, len(contents) + 1))
    order.shuffle(numbers)
    etags = {}
    for number in numbers:
        process = Parts(Storage(root, MAX_BYTES))
        etags[number] = put(process, upload, number, contents[number - 1])
    stored = Parts(Storage(root, MAX_BYTES)).join(upload, etags)
    assert stored.path.read_bytes() == b"".join(contents)
    assert storage.open(stored.name, "me", "f") == stored
    assert not leftovers(storage)
    shutil.rmtree(root)


def test_until_they_are_joined_there_is_no_file(storage: Storage, parts: Parts) -> None:
    upload = started(storage)
    etags = {1: put(parts, upload, 1, b"ab")}
    assert storage.find(upload.reservation.name) is None
    assert parts.join(upload, etags) == storage.find(upload.reservation.name)


def test_a_part_sent_twice_is_what_its_etag_says(storage: Storage, parts: Parts) -> None:
    upload = started(storage)
    first, second = put(parts, upload, 1, b"first"), put(parts, upload, 1, b"second")
    assert first != second
    assert put(parts, upload, 1, b"fi", b"rst") == first
    assert parts.join(upload, {1: first}).path.read_bytes() == b"first"


@pytest.mark.parametrize("listed", [{}, {2: "a"}, {1: "a", 3: "c"}, {1: "a", 2: "x"}])
def test_gaps_and_unknown_etags_are_refused(
    storage: Storage, parts: Parts, listed: dict[int, str]
) -> None:
    upload = started(storage)
    known = {name: put(parts, upload, n, name.encode()) for n, name in ((1, "a"), (3, "c"))}
    known |= {"x": "../../etc/passwd"}
    with pytest.raises(InvalidInput, match=r"part [12] is not"):
        parts.join(upload, {number: known[name] for number, name in listed.items()})
    assert len(leftovers(storage)) == 2, "what is there stays: the caller may send the rest"


def test_the_limit_is_for_all_parts_together(storage: Storage, parts: Parts) -> None:
    upload = started(storage)
    put(parts, upload, 1, b"a" * 600)
    with pytest.raises(FileTooLarge, match="1000 bytes"):
        put(parts, upload, 2, b"b" * 200, b"b" * 201)
    put(parts, upload, 2, b"b" * 400)
    assert len(leftovers(storage)) == 2, "nothing is left of the part that was too large"


def test_parts_that_arrive_at_the_same_time_share_the_limit(storage: Storage, parts: Parts) -> None:
    upload = started(storage)
    with parts.incoming(upload) as one, parts.incoming(upload) as other:
        one.write(b"a" * 600)
        other.write(b"b" * 600)
        parts.keep(upload, 1, one)
        with pytest.raises(FileTooLarge):
            parts.keep(upload, 2, other)
    assert [path.stat().st_size for path in leftovers(storage)] == [600]


def test_joining_again_is_the_same_file_and_no_part_comes_later(
    storage: Storage, parts: Parts
) -> None:
    upload = started(storage)
    etags = {1: put(parts, upload, 1, b"ab")}
    assert parts.join(upload, etags) == parts.join(upload, etags)
    with pytest.raises(InvalidInput, match="start another"):
        put(parts, upload, 2, b"c")
    assert not leftovers(storage)


def test_two_processes_may_join_at_once(storage: Storage, parts: Parts) -> None:
    upload = started(storage)
    etags = {number: put(parts, upload, number, b"x") for number in range(1, 60)}
    failures = []

    def join() -> None:
        try:
            Parts(storage).join(upload, etags)
        except (InvalidInput, StorageError) as error:
            failures.append(error)

    threads = [threading.Thread(target=join) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    stored = storage.find(upload.reservation.name)
    assert stored is not None
    assert stored.path.read_bytes() == b"x" * 59


def test_parts_that_another_process_joins_while_they_are_looked_for(
    storage: Storage, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = started(storage)
    etags = {number: put(parts, upload, number, b"x") for number in (1, 2)}
    found = storage.find
    asked = []

    def find(name: str) -> StoredFile | None:
        there = found(name)
        if not asked:
            asked.append(name)
            # Between the question and the parts.
            Parts(Storage(storage.root, MAX_BYTES)).join(upload, etags)
        return there

    monkeypatch.setattr(storage, "find", find)
    assert parts.join(upload, etags).path.read_bytes() == b"xx"


def test_abandoned_uploads_are_swept_after_their_deadline(
    storage: Storage, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lives_s in (60, 86_400):
        put(parts, started(storage, lives_s), 1, b"a")
    foreign = storage.root / "parts" / "notes"
    foreign.mkdir()
    assert parts.sweep() == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    assert parts.sweep() == 1
    assert len(leftovers(storage)) == 1
    assert foreign.is_dir()
    assert Parts(Storage(storage.root / "absent", MAX_BYTES)).sweep() == 0
