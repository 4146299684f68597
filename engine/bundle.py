"""A model bundle on disk: found, validated, and handed out file by file.

Every file's SHA-256 is checked when a bundle is first opened on a machine. A stamp in the user's
cache then records each file's size and modification time, and later openings compare only those:
microseconds per file instead of gigabytes of reading.
"""

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path
from pydantic import ValidationError

from .atomic_write import write_atomically
from .components import CONTRACTS, Contract
from .errors import BundleCorrupt, BundleNotFound, ComponentMissing
from .manifest import MANIFEST_NAME, SCHEMA_VERSION, Arithmetic, Component, Manifest, StepCount

DEMO_BUNDLE = Path(__file__).parent / "demo_bundle"
"""The embedded default: a small trained model with SDXL's topology, shipped in the package."""


@dataclass(frozen=True)
class Bundle:
    """A validated bundle directory; make one with `Bundle.open`."""

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None, *, check: bool = False) -> "Bundle":
        """Open and validate the bundle in directory `path` (None: the embedded default).

        `check=True` reads every file again even if this machine has done so before. Raises
        BundleNotFound, or BundleCorrupt naming the file and the fix.
        """
        if not isinstance(path, str | os.PathLike | None):
            raise BundleNotFound(f"{path!r} is no path; pass a bundle's directory, or None")
        root = Path(path) if path is not None else DEMO_BUNDLE
        manifest_path = root / MANIFEST_NAME
        try:
            text = manifest_path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise BundleNotFound(
                f"{root} is not a bundle: it has no {MANIFEST_NAME}; make one with "
                "`lightfill export --out BUNDLE`"
            ) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BundleNotFound(
                f"{manifest_path} cannot be read: {reason}; check the path and its permissions"
            ) from error
        bundle = cls(root.resolve(), _parse_manifest(text, manifest_path))
        bundle._verify(hashlib.sha256(text).hexdigest(), trust_stamp=not check)
        return bundle

    def component(self, name: str) -> Component:
        """The manifest's entry for a component, or ComponentMissing."""
        try:
            return self.manifest.components[name]
        except KeyError:
            raise ComponentMissing(
                f"bundle {self.manifest.name!r} has no component {name!r}; it has "
                f"{', '.join(self.manifest.components)}"
            ) from None

    def contract(self, name: str) -> Contract:
        """Inputs and outputs of a component."""
        return CONTRACTS[self.component(name).role]

    def graph(self, name: str, arithmetic: Arithmetic) -> Path:
        """The ONNX file of a component that computes in `arithmetic`."""
        graphs = self.component(name).graphs
        if arithmetic not in graphs:
            raise ComponentMissing(
                f"bundle {self.manifest.name!r} has {name} in {', '.join(graphs)} only; export it "
                f"again to another directory with `lightfill export --arithmetic {arithmetic}`"
            )
        return self.root / graphs[arithmetic]

    def unet(self, steps: int) -> StepCount:
        """Which UNet serves `steps` inference steps; ComponentMissing says how to add one."""
        try:
            return self.manifest.steps[steps]
        except KeyError:
            have = ", ".join(str(count) for count in sorted(self.manifest.steps))
            out = shlex.quote(str(self.root))
            raise ComponentMissing(
                f"bundle {self.manifest.name!r} has no UNet for {steps} steps (it has {have}); "
                f"choose one of those, or add it with `lightfill export --out {out} --steps "
                f"{steps}`"
            ) from None

    @property
    def only_unet(self) -> str | None:
        """The UNet that serves every step count, or None where there are several."""
        unets = {entry.component for entry in self.manifest.steps.values()}
        return unets.pop() if len(unets) == 1 else None

    def token_embedding(self, name: str) -> NDArray[Any]:
        """Token embedding table (vocabulary, width) of a text encoder, memory-mapped."""
        table = self.component(name).token_embedding
        if table is None:
            raise ComponentMissing(f"component {name!r} is no text encoder: it has no tokens")
        loaded: NDArray[Any] = np.load(self.root / table, mmap_mode="r", allow_pickle=False)
        return loaded

    @cached_property
    def bytes_on_disk(self) -> int:
        """Size of every listed file together."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def _verify(self, manifest_sha256: str, *, trust_stamp: bool) -> None:
        stats = {path: self._stat(path) for path in self.manifest.files}
        stamp = {"manifest": manifest_sha256, "files": stats}
        stamp_path = _stamp_path(self.root)
        if trust_stamp and _read_stamp(stamp_path) == stamp:
            return
        for path, entry in self.manifest.files.items():
            found = _sha256_of(self.root / path)
            if found != entry.sha256:
                raise BundleCorrupt(
                    f"{self.root / path} differs from its manifest (sha256 {found[:12]}..., "
                    f"expected {entry.sha256[:12]}...); copy or export the bundle again"
                )
        _write_stamp(stamp_path, stamp)

    def _stat(self, path: str) -> list[int]:
        """Size and modification time (ns) of a listed file; raises if it is absent or resized."""
        try:
            stat = (self.root / path).stat()
        except OSError:
            raise BundleCorrupt(
                f"{self.root / path} is missing; copy or export the bundle again"
            ) from None
        wanted = self.manifest.files[path].bytes
        if stat.st_size != wanted:
            raise BundleCorrupt(
                f"{self.root / path} has {stat.st_size} bytes, its manifest says {wanted}; "
                "copy or export the bundle again"
            )
        return [stat.st_size, stat.st_mtime_ns]


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleCorrupt(
            f"{path} cannot be read: {error.strerror}; check its permissions and its disk"
        ) from error


def _parse_manifest(text: bytes, path: Path) -> Manifest:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleCorrupt(
            f"{path} is not JSON ({error}); copy or export the bundle again"
        ) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleCorrupt(
            f"{path} has schema version {version!r}, this lightfill reads {SCHEMA_VERSION}; "
            "export the bundle again, or install the lightfill that made it"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleCorrupt(
            f"{path} is malformed: {'; '.join(_problems(error))}; export the bundle again"
        ) from error


def _problems(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"])
        yield f"{place}: {item['msg']}" if place else item["msg"]


def _stamp_path(root: Path) -> Path:
    name = hashlib.sha256(str(root).encode()).hexdigest()
    return user_cache_path("lightfill", appauthor=False) / "verified" / f"{name}.json"


def _read_stamp(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None  # never verified here, or unreadable: the files are read again


def _write_stamp(path: Path, stamp: object) -> None:
    """Record a full check; without a writable cache the next opening simply checks again."""
    with contextlib.suppress(OSError):
        write_atomically(path, json.dumps(stamp).encode())
