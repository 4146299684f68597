"""Arguments that only this process has: paths, bytes, pictures and arrays."""

import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from ..errors import FileDownloadError, InvalidInput
from .encoding import BINARY
from .uploads import Upload, of_local_file

Keep = Callable[[Any, str], str]
"""keep(value, field): the URL under which a worker finds the local value."""
_FILE_FIELDS = ("image_url", "mask_url")
_LONGEST_PATH = 4096
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:")
"""How one begins; one letter alone is a drive."""


def replaced(arguments: Any, keep: Keep) -> Any:
    """The arguments with what no JSON carries to a worker replaced by URLs."""
    if not isinstance(arguments, Mapping):
        return arguments
    kept = dict(arguments)
    for field in _FILE_FIELDS:
        if field in kept and (_is_local(kept[field]) or _is_path(kept[field])):
            kept[field] = keep(kept[field], field)
    embeddings = kept.get("embeddings")
    if isinstance(embeddings, list | tuple):
        kept["embeddings"] = [
            {**each, "path": keep(each["path"], f"embeddings.{index}.path")}
            if isinstance(each, Mapping) and _is_local(each.get("path"))
            else each
            for index, each in enumerate(embeddings)
        ]
    return kept


def upload_of(value: Any, field: str) -> Upload:
    """A local value as an upload; pictures and arrays as PNG, so that every pixel survives.

    Raises InvalidInput naming `field` for what is no file, or cannot be read.
    """
    if isinstance(value, bytes):
        return Upload(lambda: nullcontext((value,)), BINARY, None, None)
    if isinstance(value, str | PathLike):
        return _file_of(_path_of(value), field)
    import numpy as np
    from PIL import Image

    from ..images import to_png

    if not isinstance(value, Image.Image | np.ndarray):
        kind = type(value).__name__
        raise InvalidInput(field, f"{kind} is no file; pass an http(s) URL or a data URI")
    data = to_png(value, field)
    return Upload(lambda: nullcontext((data,)), "image/png", None, None)


def _file_of(path: Path, field: str) -> Upload:
    try:
        if not path.is_file():
            raise FileNotFoundError(0, "no such file")  # a pipe has no end
        path.open("rb").close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        shown = str(path)[:200]
        raise FileDownloadError(field, f"{shown} cannot be read: {reason}; check the path") from (
            error
        )
    return of_local_file(path, None)


def _path_of(value: str | PathLike[str]) -> Path:
    if isinstance(value, str) and value[:5].lower() == "file:":
        return Path(url2pathname(unquote(urlsplit(value).path)))
    return Path(value)


def _is_local(value: Any) -> bool:
    """Whether it is a path, picture, array or bytes."""
    if not isinstance(value, str):
        is_json = value is None or isinstance(value, bool | int | float | list | Mapping)
        return not is_json
    if value[:5].lower() == "file:":
        return True
    try:
        return len(value) < _LONGEST_PATH and Path(value).is_file()
    except (OSError, ValueError):
        return False


def _is_path(value: Any) -> bool:
    """Whether it can be nothing but a path, though there is no such file: better said at once."""
    return isinstance(value, str) and 0 < len(value) < _LONGEST_PATH and not _URL.match(value)
