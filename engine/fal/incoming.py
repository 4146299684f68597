"""A file while it arrives: piece by piece, from whichever thread, whole at the end or gone."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from ..atomic_write import PARTIAL
from ..errors import StorageError
from .limits import too_large


class Incoming:
    """Bytes under a temporary name in `folder`; deleted at the end of the block unless moved away.

    limit: of a file of which `taken` bytes are there already. Nothing is made before the first
    `write`. The calls block for the disk and come one after the other, from any thread.
    """

    def __init__(self, folder: Path, limit: int, *, taken: int = 0, hashed: bool = False) -> None:
        self.path = folder / f".{uuid.uuid4().hex}{PARTIAL}"
        self.size = 0
        self._limit = limit
        self._taken = taken
        self._file: BinaryIO | None = None
        self._digest = hashlib.blake2b(digest_size=16) if hashed else None

    @property
    def digest(self) -> str:
        """What names the content: 32 hexadecimal digits. Only if it is `hashed`."""
        if self._digest is None:
            raise ValueError("this file is not hashed as it arrives; pass hashed=True")
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Add `data`; raises FileTooLarge (of "file") or StorageError."""
        self.size += len(data)
        if self._taken + self.size > self._limit:
            raise too_large("file", self._limit)
        with disk_errors(self.path.parent, "a file cannot be stored"):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("xb")
            self._file.write(data)
        if self._digest is not None:
            self._digest.update(data)

    def finish(self) -> None:
        """Have all of it on the disk; no more is written. Raises StorageError."""
        if self._file is None:
            self.write(b"")
        with disk_errors(self.path.parent, "a file cannot be stored"):
            if self._file is not None and not self._file.closed:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def move_to(self, path: Path) -> None:
        """Finish it and give it its name, in one step for whoever looks. Raises StorageError."""
        self.finish()
        with disk_errors(path.parent, "a file cannot be stored"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path.replace(path)

    def discard(self) -> None:
        """Leave nothing of it; of no effect once it was moved."""
        if self._file is not None:
            with suppress(OSError):  # a full disk fails again when the buffer is written
                self._file.close()
            with disk_errors(self.path.parent, "a broken upload cannot be deleted"):
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


@contextmanager
def disk_errors(folder: Path, what: str) -> Iterator[None]:
    """OSError as StorageError: `what` cannot be done, in which folder, why, and what helps."""
    try:
        yield
    except OSError as error:
        reason = f"{what} in {folder}: {error.strerror}"
        raise StorageError(f"{reason}; free space there or set LIGHTFILL_DATA_DIR") from error
