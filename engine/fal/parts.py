"""Files that arrive in parts: in any order, at any process, joined once all are there.

The parts of an upload lie in a directory of its own, `parts/NAME.DEADLINE`, each under its number
and what names its content. Nothing else is remembered, so that every process can go on with it.
"""

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInput, StorageError
from .incoming import Incoming, disk_errors
from .limits import too_large
from .storage import Reservation, Storage, StoredFile

MAX_PARTS = 10_000
"""As S3 has it."""
_ETAG = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"\d{5}\.[0-9a-f]{32}")
_FOLDER = re.compile(r"[0-9a-f]{32}\.[a-z0-9]{1,8}\.(\d{1,12})")
_GRACE_S = 3600.0
"""How long after its deadline an upload may still be joining."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class PartedUpload:
    """An upload in progress. deadline: Unix seconds after which its parts are deleted."""

    reservation: Reservation
    deadline: int


class Parts:
    """Uploads in parts below `storage`, of whose files each may have `storage.max_bytes` in all.

    Thread-safe, and several processes may share the directory.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._root = storage.root / "parts"

    def incoming(self, upload: PartedUpload) -> Incoming:
        """Where a part is written before `keep`, within what the others leave of the limit.

        Raises InvalidInput if the parts were joined already.
        """
        folder = self._folder(upload)
        if self._storage.find(upload.reservation.name) is not None:
            raise InvalidInput("file", "this upload has been made; start another one")
        taken = sum(_sizes(folder))
        return Incoming(folder, self._storage.max_bytes, taken=taken, hashed=True)

    def keep(self, upload: PartedUpload, number: int, incoming: Incoming) -> str:
        """Add what came as part `number`, from 1, and return its etag; raises FileTooLarge.

        The same number again does not replace the part: `join` says which of them is meant.
        """
        folder, etag = self._folder(upload), incoming.digest
        incoming.move_to(folder / _part(number, etag))
        if sum(_sizes(folder)) > self._storage.max_bytes:  # others came at the same time
            (folder / _part(number, etag)).unlink(missing_ok=True)
            raise too_large("file", self._storage.max_bytes)
        return etag

    def join(self, upload: PartedUpload, etags: Mapping[int, str]) -> StoredFile:
        """Make the file of parts 1, 2, ... with these etags; of no effect if it is there already.

        Raises InvalidInput if one is missing or its content is another, FileTooLarge, StorageError.
        """
        folder, name = self._folder(upload), upload.reservation.name
        if (there := self._storage.find(name)) is not None:
            return there
        numbers = range(1, max(etags, default=1) + 1)
        try:
            paths = [_checked(folder, number, etags) for number in numbers]
            stored = self._joined(upload.reservation, paths)
        except (InvalidInput, StorageError):
            if (there := self._storage.find(name)) is None:
                raise
            return there  # another process has joined them meanwhile
        shutil.rmtree(folder, ignore_errors=True)
        return stored

    def sweep(self) -> int:
        """Delete uploads past their deadline that were never completed; returns how many."""
        removed = 0
        with disk_errors(self._root, "abandoned uploads cannot be deleted"):
            for folder in self._root.iterdir() if self._root.is_dir() else ():
                found = _FOLDER.fullmatch(folder.name)
                if found is not None and int(found[1]) + _GRACE_S < time.time():
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
        return removed

    def _joined(self, reservation: Reservation, paths: Sequence[Path]) -> StoredFile:
        with self._storage.incoming(reservation) as whole:
            for path in paths:
                with disk_errors(path.parent, "parts cannot be joined"), path.open("rb") as part:
                    while piece := part.read(_PIECE):
                        whole.write(piece)
            return self._storage.keep(reservation, whole)

    def _folder(self, upload: PartedUpload) -> Path:
        return self._root / f"{upload.reservation.name}.{upload.deadline}"


def _part(number: int, etag: str) -> str:
    return f"{number:05d}.{etag}"


def _sizes(folder: Path) -> Iterator[int]:
    """Of the parts that have arrived whole."""
    with disk_errors(folder, "parts cannot be counted"), suppress(FileNotFoundError):
        for path in folder.iterdir():
            with suppress(FileNotFoundError):
                if _PART.fullmatch(path.name):
                    yield path.stat().st_size


def _checked(folder: Path, number: int, etags: Mapping[int, str]) -> Path:
    """Where the part of that number lies."""
    etag = etags.get(number)
    if etag is None:
        raise InvalidInput("parts", f"part {number} is not listed; number them 1, 2, 3, ...")
    path = folder / _part(number, etag)
    if not _ETAG.fullmatch(etag) or not path.is_file():
        raise InvalidInput("parts", f"part {number} is not here with that etag; upload it again")
    return path
