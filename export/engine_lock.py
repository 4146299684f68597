"""One builder per engine at a time: whoever comes second waits, and finds it built."""

import contextlib
import glob
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..engine.engine_store import PLAN, remove_empty
from ..engine.errors import Cancelled

_PATIENCE = 0.2


@contextlib.contextmanager
def engine_lock(
    plan: Path, root: Path, stopped: threading.Event, on_wait: Callable[[], None]
) -> Iterator[None]:
    """Hold the lock of a plan's path; makes its directory, and leaves none that is empty.

    `on_wait` is called once if another process holds it. Raises Cancelled when `stopped` is set.
    """
    lock = _acquired(_lock_path(plan), stopped, on_wait)
    try:
        _drop_partials(plan)
        yield
    finally:
        _drop_partials(plan)
        _released(lock)
        remove_empty(plan.parent, root)


@contextlib.contextmanager
def unless_built(plan: Path, root: Path) -> Iterator[bool]:
    """Hold the lock of a plan's path if nobody builds it, and say whether it is held."""
    lock = FileLock(_lock_path(plan))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        _released(lock)
        remove_empty(plan.parent, root)


def partial_path(plan: Path, name: str) -> Path:
    """Where a plan is written until it is whole: beside its place, hidden."""
    return plan.with_name(f".{plan.stem}.{name}.partial")


def sweep(root: Path) -> int:
    """Remove what killed builds left in a store, and return how many bytes that freed.

    Builds that are running hold their locks, and keep what they write.
    """
    stems = {path.with_name(_stem(path)) for path in root.glob("*/*/.*") if _stem(path)}
    freed = 0
    for stem in sorted(stems):
        plan = stem.with_name(stem.name + PLAN)
        with unless_built(plan, root) as held:
            if held:
                freed += sum(path.stat().st_size for path in _partials(plan))
                _drop_partials(plan)
    return freed


def _acquired(path: Path, stopped: threading.Event, on_wait: Callable[[], None]) -> FileLock:
    lock, told = FileLock(path), False
    while not stopped.is_set():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            if not told:
                on_wait()
            told = True
        except FileNotFoundError:  # another builder has just removed the empty directory
            continue
        else:
            return lock
    raise Cancelled("the build was stopped; run the command again to go on")


def _released(lock: FileLock) -> None:
    """Remove a lock's file and let go of it.

    In this order: who waits for the file finds it without a name, and takes a lock on a new one
    (filelock does since 3.21). Windows removes no open file: there filelock does it on release.
    """
    with contextlib.suppress(PermissionError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _lock_path(plan: Path) -> Path:
    return plan.with_name(f".{plan.stem}.lock")


def _partials(plan: Path) -> list[Path]:
    return list(plan.parent.glob(f".{glob.escape(plan.stem)}.*.partial"))


def _drop_partials(plan: Path) -> None:
    for partial in _partials(plan):
        partial.unlink(missing_ok=True)


def _stem(remainder: Path) -> str:
    """The plan's name, without its ending, that a lock or a partial plan belongs to, or ""."""
    name = remainder.name[1:]
    if name.endswith(".partial"):
        return name.removesuffix(".partial").rpartition(".")[0]
    return name.removesuffix(".lock") if name.endswith(".lock") else ""
