"""Files in and out: every kind of input becomes bytes, every result a URL or a data URI."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import FileDownloadError, InvalidInput
from ..images import encode, to_png
from . import schema
from .data_uri import decode_data_uri, encode_data_uri, is_data_uri
from .limits import too_large
from .parts import Parts
from .settings import Settings
from .storage import Reservation, Storage, StoredFile

if TYPE_CHECKING:
    from .fetch import Fetcher

__all__ = ["Files", "StoredFile"]

FILES_PATH = "/files/"
"""Where a server offers stored files, below its public URL."""
Input = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
_CONTENT_TYPES = {"jpeg": "image/jpeg", "png": "image/png"}


class Files:
    """Reads inputs and stores uploads and results, as `settings` says. Thread-safe."""

    def __init__(self, settings: Settings, fetcher: "Fetcher | None" = None) -> None:
        self._settings = settings
        self._given_fetcher = fetcher
        self.storage = Storage(settings.files_dir, settings.max_upload_bytes)
        self.parts = Parts(self.storage)

    def read_input(
        self, value: Input, field: str, *, owner: str | None = None, local: bool = False
    ) -> bytes | Image.Image | NDArray[Any]:
        """What a request's `field` names: bytes, or the picture or array itself.

        Text is a data URI, an http(s) URL or a stored file's URL. Only for callers inside this
        process (`local`), it may also be a path or file:// URL, and `value` a path, picture or
        array. owner: whose stored files may be read; None reads all.
        Raises FileDownloadError, FileTooLarge or InvalidInput, naming `field`.
        """
        if isinstance(value, bytes):
            if len(value) > self._settings.max_download_bytes:
                raise too_large(field, self._settings.max_download_bytes)
            return value
        if isinstance(value, str):
            return self._read_text(value, field, owner, local=local)
        if local and isinstance(value, Image.Image | np.ndarray):
            return value
        if local and isinstance(value, os.PathLike):
            return self._read_path(Path(value), field)
        raise InvalidInput(
            field, f"{type(value).__name__} is no file; pass an http(s) URL or a data URI"
        )

    def keep(self, value: Input, field: str, *, owner: str | None = None) -> str:
        """A caller's local input as text a queued job can carry: what is no URL yet is stored.

        Pictures and arrays are stored as PNG, so that every pixel survives; URLs stay as they are.
        """
        if isinstance(value, str) and (is_data_uri(value) or _is_http(value)):
            return value
        if isinstance(value, str) and self._stored_name(value) is not None:
            return value
        read = self.read_input(value, field, owner=owner, local=True)
        if isinstance(read, bytes):
            return self.store(read, "application/octet-stream", owner=owner)
        return self.store(to_png(read, field), "image/png", owner=owner)

    def store(
        self,
        data: bytes | Iterable[bytes],
        content_type: str,
        file_name: str | None = None,
        *,
        owner: str | None = None,
        expires_s: float | None = None,
    ) -> str:
        """Store a file, given whole or in chunks, and return its unguessable URL.

        It is readable by its owner alone if it has one, for `expires_s` seconds (None: as long as
        `file_retention_s` says). Raises FileTooLarge or StorageError, leaving nothing behind.
        """
        kept_s = self._kept_s(expires_s)
        stored = self.storage.store(data, content_type, file_name, owner, kept_s)
        return self.url_of(stored.name)

    def reserve(
        self,
        content_type: str,
        file_name: str | None,
        *,
        owner: str | None,
        expires_s: float | None,
    ) -> Reservation:
        """A name for a file that is yet to be uploaded; the arguments are those of `store`."""
        return self.storage.reserve(content_type, file_name, owner, self._kept_s(expires_s))

    def store_picture(
        self,
        picture: Image.Image,
        file_format: str,
        *,
        sync_mode: bool = False,
        owner: str | None = None,
    ) -> schema.Image:
        """A result as the output lists it: a data URI if `sync_mode`, else a stored file's URL.

        "jpeg" has quality 95, "png" level 1; no EXIF, no prompt and no other text is written.
        """
        data = encode(picture, file_format)
        kind = _CONTENT_TYPES[file_format]
        url = encode_data_uri(data, kind) if sync_mode else self.store(data, kind, owner=owner)
        return schema.Image(url=url, width=picture.width, height=picture.height, content_type=kind)

    def open(
        self, url_or_name: str, *, owner: str | None = None, field: str = "file"
    ) -> StoredFile:
        """The stored file of that URL or name.

        Raises one and the same FileDownloadError if it is unknown, expired or another owner's.
        """
        name = self._stored_name(url_or_name)
        return self.storage.open(url_or_name if name is None else name, owner, field)

    def url_of(self, name: str) -> str:
        """The URL of a stored file: below `public_url`, or file:// where no server offers it."""
        if self._settings.public_url is None:
            return self.storage.path_of(name).absolute().as_uri()
        return f"{self._settings.public_url}{FILES_PATH}{name}"

    def sweep(self) -> int:
        """Delete expired files and abandoned uploads; returns how many."""
        return self.storage.sweep() + self.parts.sweep()

    def _kept_s(self, expires_s: float | None) -> float:
        return self._settings.file_retention_s if expires_s is None else expires_s

    @cached_property
    def _fetcher(self) -> "Fetcher":
        from .fetch import Fetcher

        return self._given_fetcher or Fetcher(self._settings)

    def _read_text(self, text: str, field: str, owner: str | None, *, local: bool) -> bytes:
        if is_data_uri(text):
            return decode_data_uri(text, field, self._settings.max_download_bytes)
        if (name := self._stored_name(text)) is not None:
            return self.storage.read(self.storage.open(name, owner, field), field)
        if _is_http(text):
            return self._fetcher.fetch(text, field)
        if local and text.lower().startswith("file:"):
            return self._read_path(Path(url2pathname(unquote(urlsplit(text).path))), field)
        if local:
            return self._read_path(Path(text), field)
        shown = f"{text[:60]}..." if len(text) > 60 else text
        raise FileDownloadError(
            field, f"{shown!r} is no http(s) URL and no data URI; pass one, or upload the file"
        )

    def _stored_name(self, url: str) -> str | None:
        """The name in a URL of this storage; None if it is none of ours."""
        public = self._settings.public_url
        if public is not None and url.startswith(f"{public}{FILES_PATH}"):
            return url.removeprefix(f"{public}{FILES_PATH}").partition("?")[0]
        if url.startswith(f"{self.storage.root.absolute().as_uri()}/"):
            return url.rpartition("/")[2]
        return None

    def _read_path(self, path: Path, field: str) -> bytes:
        """A local caller's own file."""
        limit = self._settings.max_upload_bytes
        try:
            if not path.is_file():
                raise FileNotFoundError(0, "no such file")  # a pipe has no end
            with path.open("rb") as file:
                data = file.read(limit + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise FileDownloadError(
                field, f"{str(path)[:200]} cannot be read: {reason}; check the path"
            ) from error
        if len(data) > limit:
            raise too_large(field, limit)
        return data


def _is_http(text: str) -> bool:
    return text.lstrip(" ")[:8].lower().startswith(("http:", "https:"))
