"""TensorRT engines of a bundle on disk: found by their key, checked before anything loads them.

    BUNDLE/engines/rtx-1.7.1.116/sm89/unet-4step-1024x1024-b1-0123456789ab.plan
    BUNDLE/engines/rtx-1.7.1.116/sm89/unet-4step-1024x1024-b1-0123456789ab.json

A plan takes its place before its record does, so what has a record is whole.
"""

import contextlib
import hashlib
import json
import mmap
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path
from pydantic import ValidationError

from .atomic_write import write_atomically
from .bundle import Bundle
from .engine_key import EngineKey, pixels_of
from .engine_record import EngineRecord, Runtime, StoredEngine
from .errors import EngineCorrupt, EngineNotBuilt, EngineStale

__all__ = ["EngineRecord", "EngineStore", "Runtime", "StoredEngine"]

PLAN, RECORD = ".plan", ".json"
_UNSAFE = re.compile(r"[^A-Za-z0-9._+]+")


@dataclass(frozen=True)
class EngineStore:
    """The engines of one bundle; make one with `EngineStore.of`."""

    bundle: Bundle
    root: Path

    @classmethod
    def of(cls, bundle: Bundle, root: Path | None = None) -> "EngineStore":
        """The engines in directory `root` (None: the bundle's own); it need not exist."""
        return cls(bundle, bundle.root / "engines" if root is None else Path(root).resolve())

    def path(self, key: EngineKey) -> Path:
        """Where the plan of a key lies, or will."""
        pixels = "any" if key.pixels is None else "{}x{}".format(*key.pixels)
        targets = "+".join(_UNSAFE.sub("-", target) for target in key.targets)
        batch = key.sizes.get("batch", 1)
        name = f"{_UNSAFE.sub('-', key.component)}-{pixels}-b{batch}-{key.digest[:12]}{PLAN}"
        return self.root / f"{key.flavour}-{_UNSAFE.sub('-', key.version)}" / targets / name

    def find(self, key: EngineKey) -> StoredEngine | None:
        """The engine of exactly this key; None if nothing lies in its place."""
        plan = self.path(key)
        if not plan.exists() and not plan.with_suffix(RECORD).exists():
            return None
        stored = self.at(plan)
        if stored.record and stored.record.key != key:
            return StoredEngine(plan, stored.record, "its record has another key")
        return stored

    def at(self, plan: Path) -> StoredEngine:
        """What lies at a plan's path; the plan itself is not read."""
        try:
            text = plan.with_suffix(RECORD).read_bytes()
        except FileNotFoundError:
            return StoredEngine(plan, None, "it has no record: its build did not finish")
        except OSError as error:
            return StoredEngine(plan, None, f"its record cannot be read ({error.strerror})")
        try:
            record = EngineRecord.model_validate_json(text)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            return StoredEngine(plan, None, f"its record is malformed ({reason})")
        return StoredEngine(plan, record, self._problem(plan, record))

    def listed(self) -> list[StoredEngine]:
        """Every engine and every remainder of one, in the order of their paths."""
        found = self.root.glob("*/*/[!.]*")
        plans = {path.with_suffix(PLAN) for path in found if path.suffix in {PLAN, RECORD}}
        return [self.at(plan) for plan in sorted(plans)]

    def why_not(self, engine: StoredEngine, runtime: Runtime | None) -> str | None:
        """Why an engine cannot be used by `runtime` (None: by any), or None if it can."""
        if engine.problem or engine.record is None:
            return engine.problem or "it has no record"
        return runtime.refuses(engine.record.key) if runtime else None

    def serving(self, component: str, sizes: Mapping[str, int], runtime: Runtime) -> StoredEngine:
        """The newest engine of a component that `runtime` can run at exactly these sizes.

        Raises EngineNotBuilt (with what is built), EngineStale (with what it was built for) or
        EngineCorrupt; each names the command that builds it.
        """
        engines = sorted(self.listed(), key=lambda engine: engine.made, reverse=True)
        of_component = [
            each for each in engines if each.record and each.record.key.component == component
        ]
        fitting = [
            each for each in of_component if each.record and each.record.key.sizes == dict(sizes)
        ]
        for engine in fitting:
            if self.why_not(engine, runtime) is None:
                return engine
        command = self.build_command(component, sizes, runtime)
        if not fitting:
            usable = [each for each in of_component if self.why_not(each, runtime) is None]
            raise EngineNotBuilt(
                f"there is no {runtime.flavour} engine of {component} for {_described(sizes)} "
                f"({_built(usable)}); build it with `{command}`"
            )
        reason = self.why_not(fitting[0], runtime)
        kind = EngineCorrupt if _is_damaged(fitting[0]) else EngineStale
        raise kind(
            f"the engine of {component} for {_described(sizes)} cannot be used: {reason}; "
            f"build it again with `{command}`"
        )

    def read(self, engine: StoredEngine, *, trust_stamp: bool = True) -> memoryview:
        """The plan, mapped from disk, its SHA-256 checked first (once a machine, then by a stamp).

        trust_stamp: False has it checked again. Raises EngineCorrupt.
        """
        if engine.problem or engine.record is None:
            raise self._corrupt(engine, engine.problem or "it has no record")
        try:
            with engine.plan.open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_size != engine.record.bytes:
                    raise self._corrupt(engine, _wrong_length(stat.st_size, engine.record))
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self._corrupt(engine, f"it cannot be read ({error.strerror})") from error
        stamp = [engine.record.sha256, stat.st_size, stat.st_mtime_ns, stat.st_ino]
        stamp_path = _stamp_path(engine.plan)
        if not trust_stamp or _read_stamp(stamp_path) != stamp:
            found = hashlib.sha256(content).hexdigest()
            if found != engine.record.sha256:
                raise self._corrupt(engine, f"its SHA-256 is {found[:12]}..., not as recorded")
            with contextlib.suppress(OSError):  # no writable cache: checked again next time
                write_atomically(stamp_path, json.dumps(stamp).encode())
        return memoryview(content)

    def prune(self, useless: list[StoredEngine]) -> int:
        """Remove engines with their records; returns how many bytes that freed."""
        freed = 0
        for engine in useless:
            for path in (engine.plan.with_suffix(RECORD), engine.plan):  # the record first
                with contextlib.suppress(FileNotFoundError):
                    freed += path.stat().st_size
                    path.unlink()
            remove_empty(engine.plan.parent, self.root)
        return freed

    def build_command(
        self, component: str, sizes: Mapping[str, int], runtime: Runtime | None = None
    ) -> str:
        """The command line that builds a component at these sizes, for `runtime`'s GPU."""
        side = self.bundle.manifest.natural_size
        width, height = pixels_of(sizes) or (side, side)
        words = ["lightfill", "build", str(self.bundle.root), "--image-size", f"{width}x{height}"]
        steps = [
            str(count)
            for count, entry in sorted(self.bundle.manifest.steps.items())
            if entry.component == component
        ]
        words += ["--steps", ",".join(steps)] if steps else []
        batch = sizes.get("batch", 1)
        words += ["--batch", str(batch)] if batch != 1 else []
        if runtime:
            words += ["--device", runtime.flavour]
            if runtime.flavour == "rtx":
                words += ["--gpu", runtime.target]
            elif runtime.device_index:
                words += ["--device-index", str(runtime.device_index)]
        if self.root != self.bundle.root / "engines":
            words += ["--engines", str(self.root)]
        return shlex.join(words)

    def _problem(self, plan: Path, record: EngineRecord) -> str | None:
        key = record.key
        if record.digest != key.digest:
            return "its record was edited: the digest is not its key's"
        try:
            size = plan.stat().st_size
        except OSError as error:
            return f"the plan cannot be read ({error.strerror})"
        if size != record.bytes:
            return _wrong_length(size, record)
        manifest = self.bundle.manifest
        component = manifest.components.get(key.component)
        graph = component.graphs.get("float16") if component else None
        if component is None or graph is None:
            return f"the bundle has no float16 graph of {key.component}"
        hashes = manifest.files[graph].sha256, manifest.files[component.weights].sha256
        if hashes != (key.graph_sha256, key.weights_sha256):
            return f"the bundle's {key.component} has changed since it was built"
        return None

    def _corrupt(self, engine: StoredEngine, reason: str) -> EngineCorrupt:
        key = engine.record.key if engine.record else None
        command = self.build_command(key.component, key.sizes) if key else "lightfill build"
        return EngineCorrupt(
            f"{engine.plan} cannot be loaded: {reason}; delete it with `lightfill engines "
            f"{shlex.quote(str(self.bundle.root))} --prune` and build it again with `{command}`"
        )


def remove_empty(directory: Path, root: Path) -> None:
    """Remove a directory of the store, and those above it up to `root`, that are empty."""
    with contextlib.suppress(OSError):  # not empty, or gone already
        directory.rmdir()
        if directory != root:
            remove_empty(directory.parent, root)


def _wrong_length(size: int, record: EngineRecord) -> str:
    return f"the plan has {size} bytes, {record.bytes} were written"


def _is_damaged(engine: StoredEngine) -> bool:
    """Whether the files are at fault, rather than made from or for something else."""
    return bool(engine.problem) and not (engine.problem or "").startswith("the bundle")


def _described(sizes: Mapping[str, int]) -> str:
    pixels = pixels_of(sizes)
    size = "any size" if pixels is None else "{}x{}".format(*pixels)
    batch = sizes.get("batch", 1)
    return size if batch == 1 else f"{size}, batch {batch}"


def _built(usable: list[StoredEngine]) -> str:
    sizes = sorted({_described(each.record.key.sizes) for each in usable if each.record})
    return f"built: {'; '.join(sizes)}" if sizes else "none is built for this machine"


def _stamp_path(plan: Path) -> Path:
    name = hashlib.sha256(str(plan).encode()).hexdigest()
    return user_cache_path("lightfill", appauthor=False) / "engines" / f"{name}.json"


def _read_stamp(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
