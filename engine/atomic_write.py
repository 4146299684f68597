"""Files appear whole or not at all: written under a temporary name beside them, then renamed."""

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

PARTIAL = ".partial"
"""How a temporary name ends; one that is left over comes from a process that was killed."""


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write `data`, whole or in chunks, to `path`, making its directory.

    Raises OSError, or what the chunks' iterator raises, and leaves nothing behind.
    """
    path = Path(os.path.realpath(path))  # through a link, the file it names is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.writelines((data,) if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
