"""Where model files come from: a model on the hub, a local folder, or one local file.

The rest of this room sees names and fetches paths; which of the three it is makes no difference.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Protocol

from ..engine.errors import ExportError
from .hub import HubRepository, missing_file

_HUB_ID = re.compile(
    r"(?P<name>\w([\w.-]{0,94}\w)?/\w([\w.-]{0,94}\w)?)(@(?P<revision>[^@]*))?", re.ASCII
)
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./+=#-]*", re.ASCII)
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SHOWN_NAMES = 12


class Repository(Protocol):
    """A set of model files, all of one version."""

    @property
    def name(self) -> str:
        """What the user wrote: the hub id, or the folder's or file's own name."""

    @property
    def revision(self) -> str | None:
        """The commit on the hub; None for local files."""

    def files(self) -> frozenset[str]:
        """Names relative to the repository, with forward slashes."""

    def fetch(self, name: str) -> Path:
        """The local path of one of `files()`, downloaded if need be."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder and everything below it but hidden folders; links are followed."""

    path: Path
    revision: None = None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return _own_name(self.path)

    def files(self) -> frozenset[str]:
        """Walked again at each call."""
        try:
            return frozenset(path.relative_to(self.path).as_posix() for path in _walk(self.path))
        except OSError as error:
            raise ExportError(
                f"{self.path} cannot be read ({error}); check its permissions"
            ) from error

    def fetch(self, name: str) -> Path:
        """The file's path; names that lead out of the folder are not among `files()`."""
        files = self.files()
        if name not in files:
            raise missing_file(str(self.path), name, files, "pass a folder that has it")
        return self.path / name


@dataclass(frozen=True)
class LocalFile:
    """A repository of one file."""

    path: Path
    revision: None = None

    @property
    def name(self) -> str:
        """The file's own name."""
        return _own_name(self.path)

    def files(self) -> frozenset[str]:
        """That one name."""
        return frozenset({self.name})

    def fetch(self, name: str) -> Path:
        """Its path."""
        if name not in self.files():
            raise missing_file(str(self.path), name, self.files(), "pass the folder that has it")
        return self.path


def open_repository(
    spec: str | Path, *, revision: str | None = None, local_files_only: bool = False
) -> Repository:
    """The repository that `spec` names: an existing path, else `owner/name[@revision]` on the hub.

    A `Path` is always local. A revision given for local files is refused rather than ignored.
    """
    local = _local(Path(spec)) if str(spec) else None
    if local:
        if revision is not None:
            raise ExportError(
                f"{spec} is a local path, which has no revision {revision!r}; leave the revision "
                "out, or run where no path of that name exists"
            )
        return local
    match = _HUB_ID.fullmatch(spec) if isinstance(spec, str) else None
    if match is None or re.search(r"--|\.\.|\.git$", match["name"]):
        raise ExportError(
            f"{str(spec)!r} is neither an existing path nor a hub id; pass a folder or file that "
            "exists, or owner/name as the model's page has it"
        )
    wanted = next(text for text in (match["revision"], revision, "main") if text is not None)
    if not _REVISION.fullmatch(wanted):
        raise ExportError(
            f"{wanted!r} is no revision of {match['name']}; pass a branch, tag or commit"
        )
    return HubRepository.open(match["name"], wanted, local_files_only=local_files_only)


def weight_files(
    repository: Repository,
    folder: str,
    *,
    stems: Sequence[str] = _STEMS,
    prefer_half: bool = True,
) -> list[str]:
    """The files that hold the weights of the component in `folder` ("" is the root).

    Safetensors go before torch pickles (`.bin`), then `.fp16.` before plain files, or after them
    without `prefer_half`, then the earlier stem. Several names are the shards of one set.
    """
    files = repository.files()
    prefix = f"{folder.strip('/')}/".removeprefix("/")
    variants = (".fp16", "") if prefer_half else ("", ".fp16")
    for kind, variant, stem in product((".safetensors", ".bin"), variants, stems):
        single = f"{prefix}{stem}{variant}{kind}"
        if single in files:
            return [single]
        for index in _index_names(f"{prefix}{stem}", variant, kind):
            if index in files:
                return _shards(repository, index, files)
    found = sorted(name for name in files if name.startswith(prefix))
    shown = ", ".join(found[:_SHOWN_NAMES]) + (", ..." if len(found) > _SHOWN_NAMES else "")
    raise ExportError(
        f"{repository.name} has no weights named {' or '.join(stems)} in {prefix or 'its root'}, "
        f"only {shown or 'nothing'}; pass a model with .safetensors or .bin files there"
    )


def _index_names(stem: str, variant: str, kind: str) -> tuple[str, ...]:
    """What diffusers and transformers call a shard index today, and what they did before."""
    return (
        f"{stem}{kind}.index{variant}.json",
        f"{stem}{variant}{kind}.index.json",
        f"{stem}{kind}{variant}.index.json",
    )


def _shards(repository: Repository, index: str, files: frozenset[str]) -> list[str]:
    try:
        names = json.loads(repository.fetch(index).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(name) for name in names.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{index} of {repository.name} is no shard index ({type(error).__name__}: {error}); "
            "fetch or copy the file again"
        ) from error
    folder = index.rpartition("/")[0]
    shards = [f"{folder}/{name}".removeprefix("/") for name in shards]
    absent = [name for name in shards if name not in files]
    if absent or not shards:
        raise ExportError(
            f"{index} of {repository.name} names {len(shards)} shards, of which {len(absent)} are "
            f"absent ({', '.join(absent[:3])}); fetch or copy all of them"
        )
    return shards


def _local(path: Path) -> LocalFolder | LocalFile | None:
    try:
        if path.is_dir():
            return LocalFolder(path)
        if path.is_file():
            return LocalFile(path)
        exists = path.exists()
    except OSError as error:  # a folder above it may not be entered, the name is too long
        raise ExportError(f"{path} cannot be read ({error}); pass another path") from error
    if exists:
        raise ExportError(f"{path} is neither a folder nor a regular file; pass one of these")
    return None


def _own_name(path: Path) -> str:
    return path.name if path.name not in {"", ".."} else path.resolve().name or str(path)


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The regular files below `folder`; `above` stops at a link that leads back up."""
    real = folder.resolve()
    if real in above:
        return
    for path in folder.iterdir():
        if path.is_file():
            yield path
        elif path.is_dir() and not path.name.startswith("."):
            yield from _walk(path, (*above, real))
