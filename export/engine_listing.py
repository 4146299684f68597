"""`lightfill engines`: what is built, for what, whether it can be used here, and if not, why."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from ..engine.bundle import Bundle
from ..engine.engine_key import installed_version
from ..engine.engine_record import Runtime, StoredEngine
from ..engine.engine_store import EngineStore
from ..engine.errors import EngineCorrupt, EngineError
from ..engine.gpus import local_gpu, local_runtimes
from .engine_targets import require_tools


@dataclass(frozen=True)
class Listed:
    """One engine. problem: why nothing can use it; here: why this machine cannot. None: it can."""

    engine: StoredEngine
    problem: str | None
    here: str | None

    def as_dict(self, root: Path) -> dict[str, Any]:
        """For JSON: the record, spelled out, and the two verdicts."""
        record = self.engine.record
        return {
            "plan": self.engine.plan.relative_to(root).as_posix(),
            "valid": self.problem is None,
            "problem": self.problem,
            "usable_here": self.here is None,
            "why_not_here": self.here,
            "record": record.model_dump(mode="json") if record else None,
        }


def listing(store: EngineStore) -> list[Listed]:
    """Every engine of a store, judged for this machine."""
    runtimes = local_runtimes()
    found = []
    for engine in store.listed():
        problem = store.why_not(engine, None)
        found.append(Listed(engine, problem, problem or _why_not_here(store, engine, runtimes)))
    return found


def prune(store: EngineStore) -> tuple[list[Listed], int]:
    """Remove engines nothing can use, after reading every plan, and what killed builds left.

    Engines for other GPUs and versions stay: another machine may use them. So does what another
    process is building. Returns what was removed and how many bytes that freed. Raises
    EngineError where something cannot be removed.
    """
    from .engine_lock import sweep

    try:
        useless, freed = _pruned(store)
        return useless, freed + sweep(store.root)
    except OSError as error:
        raise EngineError(
            f"{error.filename or store.root} cannot be removed ({error.strerror}); run the command "
            "as a user who may write there"
        ) from error


def table_of(found: Sequence[Listed], root: Path) -> Table:
    """For people: one line per engine, and the reason where one is of no use here."""
    table = Table(
        Column("engine", no_wrap=True), "size", "batch", "built by", "for", "plan", "usable here",
        box=None,
    )  # fmt: skip
    for each in found:
        record = each.engine.record
        name = each.engine.plan.relative_to(root).as_posix()
        usable = "yes" if each.here is None else f"no: {each.here}"
        if record is None:
            table.add_row(_plain(name), "", "", "", "", "", _plain(usable))
            continue
        key = record.key
        pixels = "any" if key.pixels is None else "{}x{}".format(*key.pixels)
        table.add_row(
            _plain(key.component), pixels, str(key.sizes.get("batch", 1)),
            f"{key.flavour} {key.version}", _plain(", ".join(key.targets)),
            f"{record.bytes / 1e6:.1f} MB", _plain(usable),
        )  # fmt: skip
    return table


def list_from_command_line(
    bundle: Path, engines: Path | None, *, pruned: bool, as_json: bool, out: Console
) -> None:
    """Print the listing, or what pruning removed."""
    import json

    store = EngineStore.of(Bundle.open(bundle), engines)
    if pruned:
        require_tools("pruning", ("filelock",))
    found, freed = prune(store) if pruned else (listing(store), 0)
    if as_json:
        print(json.dumps([each.as_dict(store.root) for each in found], indent=1))
        return
    if found:
        out.print(table_of(found, store.root))
    elif not pruned:
        out.print(f"no engines in {store.root}; build some with `lightfill build`", soft_wrap=True)
    if pruned:
        count = "1 engine" if len(found) == 1 else f"{len(found)} engines"
        out.print(f"removed {count}, {freed / 1e6:.1f} MB", highlight=False)


def _why_not_here(
    store: EngineStore, engine: StoredEngine, runtimes: Sequence[Runtime]
) -> str | None:
    assert engine.record  # noqa: S101, for the type checker: without one there is a problem
    flavour = engine.record.key.flavour
    if installed_version(flavour) is None:
        return f"its TensorRT is not installed: `pip install 'lightfill[{flavour}]'`"
    if local_gpu() is None:
        return "there is no NVIDIA GPU here"
    reasons = [store.why_not(engine, each) for each in runtimes if each.flavour == flavour]
    return None if None in reasons else reasons[0]


def _pruned(store: EngineStore) -> tuple[list[Listed], int]:
    from .engine_lock import unless_built

    useless, freed = [], 0
    for listed in store.listed():
        if not _useless(store, listed):
            continue
        with unless_built(listed.plan, store.root) as held:
            engine = store.at(listed.plan)  # a build may have finished meanwhile
            problem = _useless(store, engine) if held else None
            if problem:
                useless.append(Listed(engine, problem, problem))
                freed += store.prune([engine])
    return useless, freed


def _useless(store: EngineStore, engine: StoredEngine) -> str | None:
    """Why nothing can use an engine, its plan read to the end."""
    if problem := store.why_not(engine, None):
        return problem
    try:
        store.read(engine, trust_stamp=False)
    except EngineCorrupt:
        return "the plan differs from what was written"
    return None


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
