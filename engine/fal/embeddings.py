"""Where a request's textual inversions come from: a URL, a hub id or, in Python, a local file.

Every one is a safetensors file; nothing is ever unpickled (`engine.textual_inversion`).
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import FileDownloadError, FileTooLarge, InvalidInput
from ..textual_inversion import MAX_BYTES, Embedding
from .files import Files
from .hub import fetch_embedding, is_hub_id
from .schema import Embedding as WireEmbedding

_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:")
"""Of a URL; one letter alone is a drive."""
MAX_EMBEDDINGS = 16
"""Of one request: each may take a whole fetch's time and bytes. fal's own limit is not known."""


def resolved(
    embeddings: Sequence[WireEmbedding],
    files: Files,
    *,
    owner: str | None = None,
    local: bool = False,
) -> list[Embedding]:
    """Each embedding with its file: the bytes of a URL, or a path on this machine.

    `files` fetches URLs within its limits, and none of private addresses. local: the caller is in
    this process, so a path that exists is meant before a hub id, and hub ids are looked up with
    this machine's token; callers from outside use neither.

    Raises FileDownloadError or FileTooLarge naming `embeddings.N.path`: also when they are larger
    than `MAX_BYTES` together. InvalidInput for more than `MAX_EMBEDDINGS`.
    """
    if len(embeddings) > MAX_EMBEDDINGS:
        given = f"{len(embeddings)} are given, {MAX_EMBEDDINGS} may be"
        raise InvalidInput("embeddings", f"{given}; leave out those the prompt does not name")
    found, room = [], MAX_BYTES
    for index, entry in enumerate(embeddings):
        field = f"embeddings.{index}.path"
        source = _source(entry.path, field, files, owner, local=local)
        room -= len(source) if isinstance(source, bytes) else 0  # files are read one by one
        if room < 0:
            reason = f"all together have more than {MAX_BYTES >> 20} MiB; leave some out"
            raise FileTooLarge(field, reason, context={"max_size": MAX_BYTES})
        found.append(Embedding(source, entry.tokens))
    return found


def _source(path: str, field: str, files: Files, owner: str | None, *, local: bool) -> bytes | Path:
    if local and _exists(path):
        return Path(path)
    if is_hub_id(path):
        return fetch_embedding(path, field, token=None if local else False)
    if local and not _SCHEME.match(path):
        raise FileDownloadError(
            field, f"{path[:200]!r} is no file here; pass its path, a URL or a hub id (owner/name)"
        )
    if not _SCHEME.match(path):
        raise FileDownloadError(
            field,
            f"{path[:60]!r} is neither a URL nor a hub id (owner/name); upload the file and pass "
            "its URL",
        )
    content = files.read_input(path, field, owner=owner, local=local)
    if not isinstance(content, bytes):  # text is always read as bytes
        raise FileDownloadError(field, "is no file; pass the URL of a safetensors file")
    return content


def _exists(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False
