"""Stored files: uploads and results in one directory, found only by whoever has their URL.

A file's name is 128 random bits and an ending. Beside it lies NAME.json with its content type,
owner and expiry, written last: a file without one does not exist yet, or no longer.

A name may be reserved before the content is there (an upload URL is given out). Nothing is written
then: the Reservation is what its holder brings back with the content.
"""

import filecmp
import json
import logging
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..atomic_write import PARTIAL, write_atomically
from ..errors import FileDownloadError, InvalidInput
from .incoming import Incoming, disk_errors

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9a-f]{32}\.[a-z0-9]{1,8}")
_CONTENT_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}/[a-z0-9][a-z0-9.+-]{0,60}")
_ENDINGS = {
    "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif",
    "image/avif": "avif", "image/bmp": "bmp", "image/tiff": "tiff", "text/plain": "txt",
    "application/json": "json",
}  # fmt: skip
_ABANDONED_S = 3600.0
"""An unfinished file of this age was left by a process that died."""


@dataclass(frozen=True)
class StoredFile:
    """One stored file. `expires` is in Unix seconds, None for never; `owner` None for anyone."""

    name: str
    path: Path
    content_type: str
    size: int
    file_name: str | None
    owner: str | None
    expires: float | None


@dataclass(frozen=True)
class Reservation:
    """The name of a file whose content is yet to come, and what else is known of it.

    expires_s: how long it is kept once it is there, None for ever.
    """

    name: str
    content_type: str
    file_name: str | None
    owner: str | None
    expires_s: float | None


class Storage:
    """The files in `root`. Thread-safe, and several processes may share the directory."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes

    def store(
        self,
        data: bytes | Iterable[bytes],
        content_type: str,
        file_name: str | None,
        owner: str | None,
        expires_s: float | None,
    ) -> StoredFile:
        """Write a file, whole or not at all; raises FileTooLarge or StorageError."""
        reservation = self.reserve(content_type, file_name, owner, expires_s)
        chunks = (data,) if isinstance(data, bytes) else data
        with self._working("a file cannot be stored"), self.incoming(reservation) as incoming:
            for chunk in chunks:
                incoming.write(chunk)
            return self.keep(reservation, incoming)

    def reserve(
        self, content_type: str, file_name: str | None, owner: str | None, expires_s: float | None
    ) -> Reservation:
        """An unguessable name that nothing else will have."""
        content_type = content_type.partition(";")[0].strip().lower()
        if not _CONTENT_TYPE.fullmatch(content_type):
            content_type = "application/octet-stream"
        shown_name = _plain_name(file_name)
        name = f"{secrets.token_hex(16)}.{_ending(content_type, shown_name)}"
        return Reservation(name, content_type, shown_name, owner, expires_s)

    def incoming(self, reservation: Reservation) -> Incoming:
        """Where the content is written before `keep`."""
        return Incoming(self.path_of(reservation.name).parent, self.max_bytes)

    def keep(self, reservation: Reservation, incoming: Incoming) -> StoredFile:
        """Give what came in its reserved name; now it is there. Raises StorageError.

        A file is written once, so that caches may keep it: the same content again is fine (a caller
        who got no answer repeats the upload), other content raises InvalidInput.
        """
        path = self.path_of(reservation.name)
        if (there := self.find(reservation.name)) is not None:
            incoming.finish()
            with self._working(f"{there.name} cannot be read"):
                if filecmp.cmp(incoming.path, path, shallow=False):
                    return there
            raise InvalidInput("file", "this upload has been made; start another one")
        expires = None if reservation.expires_s is None else time.time() + reservation.expires_s
        incoming.move_to(path)
        stored = StoredFile(
            reservation.name, path, reservation.content_type, incoming.size,
            reservation.file_name, reservation.owner, expires,
        )  # fmt: skip
        record = {key: value for key, value in asdict(stored).items() if key != "path"}
        with self._working(f"{stored.name} cannot be stored"):
            write_atomically(_record_of(path), json.dumps(record).encode())
        return stored

    def find(self, name: str) -> StoredFile | None:
        """The file called `name`, whoever owns it; None if there is none, or no longer."""
        stored = self._recorded(name) if _NAME.fullmatch(name) else None
        if stored is None or _expired(stored.expires) or not stored.path.is_file():
            return None
        return stored

    def open(self, name: str, owner: str | None, field: str) -> StoredFile:
        """The file called `name`, if it exists, has not expired, and `owner` may see it.

        owner None sees all files (this machine's own code); a file without owner is seen by all.
        Every refusal reads the same. Raises FileDownloadError naming `field`.
        """
        stored = self.find(name)
        if stored is not None and (owner is None or stored.owner in (None, owner)):
            return stored
        raise FileDownloadError(field, "no such stored file, or it has expired; upload it again")

    def read(self, stored: StoredFile, field: str) -> bytes:
        """The file's bytes; FileDownloadError if it was swept meanwhile."""
        try:
            return stored.path.read_bytes()
        except OSError as error:
            reason = f"the stored file cannot be read ({error.strerror})"
            raise FileDownloadError(field, f"{reason}; upload it again") from error

    def sweep(self) -> int:
        """Delete expired files and what dead processes left; returns how many files went."""
        removed = 0
        with self._working("expired files cannot be deleted"):
            for path in self._everything():
                if path.suffix == ".json" and _NAME.fullmatch(path.stem):
                    stored = self._recorded(path.stem)
                    if stored is None or _expired(stored.expires):
                        path.unlink(missing_ok=True)  # first: without it the file is gone
                        path.with_suffix("").unlink(missing_ok=True)
                        removed += 1
                elif _is_abandoned(path):
                    path.unlink(missing_ok=True)
                    removed += path.suffix != PARTIAL
        return removed

    def path_of(self, name: str) -> Path:
        """Where a file of that (well-formed) name lies."""
        return self.root / name[:2] / name

    def _everything(self) -> Iterator[Path]:
        return self.root.glob("[0-9a-f][0-9a-f]/*") if self.root.is_dir() else iter(())

    def _recorded(self, name: str) -> StoredFile | None:
        """What the record beside `name` says; None without a record or with a damaged one."""
        path = self.path_of(name)
        with self._working(f"{name} cannot be read"):
            try:
                stored = StoredFile(path=path, **json.loads(_record_of(path).read_bytes()))
                _expired(stored.expires)
            except FileNotFoundError:
                return None
            except (ValueError, TypeError) as error:
                logger.warning("the record of stored file %s is damaged: %s", name, error)
                return None
        return stored

    def _working(self, what: str) -> AbstractContextManager[None]:
        return disk_errors(self.root, what)


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _expired(expires: float | None) -> bool:
    return expires is not None and expires <= time.time()


def _is_abandoned(path: Path) -> bool:
    """A temporary file, or a file without record, too old to be a write in progress."""
    unrecorded = _NAME.fullmatch(path.name) and not _record_of(path).exists()
    if not unrecorded and path.suffix != PARTIAL:
        return False
    try:
        return path.stat().st_mtime < time.time() - _ABANDONED_S
    except FileNotFoundError:
        return False


def _plain_name(file_name: str | None) -> str | None:
    """A caller's file name without directories and control characters, at most 100 characters."""
    if file_name is None:
        return None
    last = re.split(r"[/\\]", file_name)[-1]
    return re.sub(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff"]', "", last)[-100:] or None


def _ending(content_type: str, file_name: str | None) -> str:
    if content_type in _ENDINGS:
        return _ENDINGS[content_type]
    ending = (file_name or "").rpartition(".")[2].lower()
    return ending if re.fullmatch(r"[a-z0-9]{1,8}", ending) and "." in str(file_name) else "bin"
