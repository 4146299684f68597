"""Where an export writes until it is complete: finished components survive a kill and are reused.

A hidden sibling of the bundle, held under a lock:

    .NAME.partial/.lock
    .NAME.partial/unet.making/      a component that is being made
    .NAME.partial/unet.json         the record of a finished one: of what, and its files' SHA-256
    .NAME.partial/bundle/unet/      its files
    .NAME.partial/bundle/...        manifest, tokenizers, licences, written last

A new bundle is `bundle`, renamed. On the next run a component whose record fits what is asked for,
and whose files still have the recorded SHA-256, is not made again.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from ..engine.atomic_write import write_atomically
from ..engine.errors import ExportError
from ..engine.manifest import MANIFEST_NAME, Component, FileEntry, Manifest, serialised

_LOCK_NAME = ".lock"
_MAKING = ".making"
_RECORD = ".json"


class Record(BaseModel):
    """What a finished component says of itself, and the key of what it was made from."""

    key: str
    component: Component
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Staging:
    """The directory an export of `out` works in; make one with `Staging.of`."""

    out: Path

    @classmethod
    @contextlib.contextmanager
    def of(cls, out: Path) -> Iterator["Staging"]:
        """Hold the staging directory of a bundle; another export of the same bundle is refused.

        Afterwards nothing is left of it, unless the export failed: then finished components are.
        """
        staging = cls(_real(out))
        staging.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(staging.root / _LOCK_NAME, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ExportError(
                f"another export is writing {out}; wait for it, or choose another --out"
            ) from None
        try:
            staging._drop_unfinished()
            staging.bundle.mkdir(exist_ok=True)
            yield staging
            for record in staging._records():
                record.unlink()
        finally:
            try:
                staging._drop_unfinished()
                if not staging._records():
                    shutil.rmtree(staging.root, ignore_errors=True)
            finally:
                lock.release()  # last: what another export stages must not be cleaned away

    @property
    def root(self) -> Path:
        """The hidden sibling."""
        return _staging_directory(self.out)

    @property
    def bundle(self) -> Path:
        """Holds what will be in the bundle, at the same paths."""
        return self.root / "bundle"

    def finished(self, name: str, key: str) -> Record | None:
        """The record of a component that an earlier run finished; one that differs is removed."""
        try:
            record = Record.model_validate_json(self._record(name).read_bytes())
        except (OSError, ValidationError):
            record = None
        directory = self.bundle / name
        if record is not None and record.key == key and record.files == _entries(directory, name):
            return record
        self._record(name).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)
        return None

    def begin(self, name: str) -> Path:
        """An empty directory to make a component in."""
        directory = self.root / f"{name}{_MAKING}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        return directory

    def finish(self, name: str, key: str, component: Component) -> Record:
        """Record what was made and give it its place."""
        making = self.root / f"{name}{_MAKING}"
        record = Record(key=key, component=component, files=_entries(making, name))
        write_atomically(self._record(name), record.model_dump_json().encode())
        shutil.rmtree(self.bundle / name, ignore_errors=True)
        making.rename(self.bundle / name)
        return record

    def adopt(self, listed: Collection[str]) -> None:
        """Take back what a killed run moved into the bundle, whose manifest lists only `listed`."""
        for record in self._records():
            name = record.name.removesuffix(_RECORD)
            moved = self.out / name
            if name not in listed and moved.is_dir() and not (self.bundle / name).exists():
                moved.rename(self.bundle / name)

    def publish(self, manifest: Manifest) -> None:
        """What is staged becomes a new bundle; components of another request are dropped."""
        for path in self.bundle.iterdir():
            if self._record(path.name).exists() and path.name not in manifest.components:
                shutil.rmtree(path)
        write_atomically(self.bundle / MANIFEST_NAME, serialised(manifest))
        self.bundle.rename(self.out)

    def merge(self, manifest: Manifest, names: Collection[str]) -> None:
        """Move components and other files into the bundle, which gains them with its manifest.

        Nothing the old manifest lists is touched before, so a kill leaves the old bundle whole.
        """
        write_atomically(self.bundle / MANIFEST_NAME, serialised(manifest))
        for name in names:
            shutil.rmtree(self.out / name, ignore_errors=True)  # nothing the bundle lists
            (self.bundle / name).rename(self.out / name)
        for directory in self.bundle.iterdir():
            if directory.is_file() or self._record(directory.name).exists():
                continue
            for path in directory.rglob("*"):
                target = self.out / path.relative_to(self.bundle)
                if path.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)
        (self.bundle / MANIFEST_NAME).replace(self.out / MANIFEST_NAME)

    def _record(self, name: str) -> Path:
        return self.root / f"{name}{_RECORD}"

    def _records(self) -> list[Path]:
        return [path for path in self.root.glob(f"*{_RECORD}") if not path.name.startswith(".")]

    def _drop_unfinished(self) -> None:
        """Remove all but finished components and their records."""
        kept = {self.root / _LOCK_NAME, self.bundle, *self._records()}
        staged = self.bundle.iterdir() if self.bundle.is_dir() else ()
        for path in [*self.root.iterdir(), *staged]:
            if path in kept or self._record(path.name).exists():
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def left_behind(out: Path) -> int | None:
    """How many bytes another export of `out` has staged; None if there is nothing of it."""
    directory = _staging_directory(_real(out))
    if not directory.exists():
        return None
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _real(out: Path) -> Path:
    """With a name to put the staging directory's beside, and on the same disk, through links."""
    return Path(os.path.realpath(out))


def _staging_directory(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def _entries(directory: Path, prefix: str) -> dict[str, FileEntry]:
    return {
        f"{prefix}/{path.relative_to(directory).as_posix()}": file_entry(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def file_entry(path: Path) -> FileEntry:
    """Length and SHA-256 of one file."""
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
