"""Where a request's textual inversions come from: a URL, a hub id or, in Python, a local file.

Every one is a safetensors file; nothing is ever unpickled (`engine.textual_inversion`).
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import FileDownloadError
from ..textual_inversion import Embedding
from .files import Files
from .hub import fetch_embedding, is_hub_id
from .schema import Embedding as WireEmbedding

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def resolved(
    embeddings: Sequence[WireEmbedding],
    files: Files,
    *,
    local_paths: bool = False,
    owner: str | None = None,
) -> list[Embedding]:
    """Each embedding with its file fetched: bytes of a URL, or a path on this machine.

    `files` fetches URLs with its limits and its refusal of private addresses. local_paths: whether
    the caller may name files of this machine (who shares its disk anyway) and use its hub token.

    Raises FileDownloadError, FileTooLarge or what `files` does, naming `embeddings.N.path`.
    """
    found = []
    for index, entry in enumerate(embeddings):
        field = f"embeddings.{index}.path"
        found.append(Embedding(_source(entry.path, field, files, local_paths, owner), entry.tokens))
    return found


def _source(
    path: str, field: str, files: Files, local_paths: bool, owner: str | None
) -> bytes | Path:
    if local_paths and _exists(path):
        return Path(path)
    if is_hub_id(path):
        return fetch_embedding(path, field, token=None if local_paths else False)
    if _URL.match(path):
        return _bytes(files.read_input(path, field, owner=owner), field)
    raise FileDownloadError(
        field,
        f"{path[:200]!r} is no file here; pass a URL or a hub id (owner/name)"
        if local_paths
        else f"{path[:200]!r} is neither a URL nor a hub id; upload the file and pass its URL",
    )


def _exists(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _bytes(content: object, field: str) -> bytes:
    if not isinstance(content, bytes):
        raise FileDownloadError(field, "is no file; pass a URL of a safetensors file")
    return content
