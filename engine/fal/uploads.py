"""Uploads before they leave: data, a file or a picture, opened only where they are stored."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from .encoding import content_type_of, written
from .lifecycle import StorageSettings, UploadRepositoryId, check_repositories

if TYPE_CHECKING:
    from PIL import Image

Repositories = UploadRepositoryId | Sequence[UploadRepositoryId]
_PIECE = 1 << 20


class Where(TypedDict):
    """fal_client's options of an upload."""

    repository: UploadRepositoryId | None
    fallback_repository: Repositories | None
    lifecycle: StorageSettings | None


@dataclass(frozen=True)
class Upload:
    """One file to store: `open` gives its content in pieces. expires_s: None for the default."""

    open: Callable[[], AbstractContextManager[Iterable[bytes]]]
    content_type: str
    file_name: str | None
    expires_s: float | None


def of_data(data: str | bytes, content_type: str, file_name: str | None, where: Where) -> Upload:
    """Bytes, or text as UTF-8."""
    content = data.encode() if isinstance(data, str) else bytes(data)
    return Upload(lambda: nullcontext((content,)), content_type, file_name, _expires_s(where))


def of_file(path: str | os.PathLike[str], where: Where) -> Upload:
    """A local file of any size; `open` raises OSError if it cannot be read."""
    return of_local_file(Path(path), _expires_s(where))


def of_local_file(path: Path, expires_s: float | None) -> Upload:
    """The same with the seconds it is to be kept."""

    @contextmanager
    def opened() -> Iterator[Iterable[bytes]]:
        with path.open("rb") as file:
            yield iter(lambda: file.read(_PIECE), b"")

    return Upload(opened, content_type_of(path), path.name, expires_s)


def of_image(image: "Image.Image", file_format: str, where: Where) -> Upload:
    """A Pillow picture, written as fal_client writes it."""
    return Upload(
        lambda: nullcontext((written(image, file_format),)),
        f"image/{file_format}",
        None,
        _expires_s(where),
    )


def _expires_s(where: Where) -> float | None:
    check_repositories(where["repository"], where["fallback_repository"])
    lifecycle = where["lifecycle"]
    return None if lifecycle is None else lifecycle.seconds()
