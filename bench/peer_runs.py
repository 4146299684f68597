"""lightfill and one peer at a time, on the same request, in one run: ratios pair by pair."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..engine import memory
from ..engine.agreement import agreement
from ..engine.bundle import Bundle
from ..engine.errors import InvalidInput, LightfillError
from .artefact import PeerResult
from .latency import OnPart
from .own_side import EngineOptions, open_side
from .peer_environments import kept_exports
from .peer_list import SCRIPTS, Peer
from .side import Side
from .spread import Spread
from .workload import Workload

DEMO_CHECKPOINT = Path(__file__).parents[1] / "export" / "demo" / "lightfill-demo"
"""What the embedded bundle was exported from; there in a checkout, not in an installed package."""
_USABLE_SHARE = 0.8


def checkpoint_of(options: EngineOptions, given: Path | None) -> Path:
    """The diffusers folder that peers load; InvalidInput if it is not known."""
    if given is not None:
        if not (given / "model_index.json").is_file():
            raise InvalidInput("checkpoint", f"{given} is no diffusers folder; pass one")
        return given
    if options.bundle is None and DEMO_CHECKPOINT.is_dir():
        return DEMO_CHECKPOINT
    raise InvalidInput(
        "checkpoint", "peers run a diffusers checkpoint; pass the folder the bundle was made from"
    )


def compared(
    options: EngineOptions,
    workload: Workload,
    peers: Sequence[Peer],
    checkpoint: Path,
    runs: int,
    warmups: int,
    on_part: OnPart = lambda _: None,
) -> Iterator[PeerResult]:
    """Measure every peer against ours; one that cannot run is reported with its reason."""
    with tempfile.TemporaryDirectory(prefix="lightfill-bench-") as directory:
        on_part("our picture by diffusers' rules")
        ours = Path(directory) / "ours.png"
        with open_side(replace(options, parity=True), workload, warmups=1) as side:
            side.save(ours)
        for peer in peers:
            on_part(peer.name)
            try:
                yield _against(options, workload, peer, checkpoint, runs, warmups, ours)
            except LightfillError as error:
                yield PeerResult(name=peer.name, reason=str(error), note=peer.note)


def fit_together(options: EngineOptions) -> bool:
    """Whether both sides may stay loaded: twice what ours needs is there; a peer needs as much."""
    device = "openvino" if options.device == "openvino" else "cpu"
    needed = 2 * memory.needed_bytes(Bundle.open(options.bundle), device, options.precision)
    return needed <= _USABLE_SHARE * memory.available_bytes()


def _against(
    options: EngineOptions,
    workload: Workload,
    peer: Peer,
    checkpoint: Path,
    runs: int,
    warmups: int,
    our_picture: Path,
) -> PeerResult:
    python = peer.environment.python()
    work = {
        "workload": workload.as_json(),
        "warmups": warmups,
        "checkpoint": str(checkpoint.resolve()),
        "cache": str(kept_exports(checkpoint)),
        "device": peer.on,
        "threads": options.threads,
        **peer.work,
    }

    def theirs() -> Side:
        return Side(peer.name, [str(python), str(SCRIPTS / peer.script)], work)

    together = fit_together(options)
    if together:
        with theirs() as their_side, open_side(options, workload, warmups) as our_side:
            ours, others = _in_turns(our_side, their_side, runs)
            end = _ended(their_side, our_picture)
    else:  # the peer first: one that cannot run costs none of our requests
        with theirs() as their_side:
            others = [their_side.run()["total"] for _ in range(runs)]
            end = _ended(their_side, our_picture)
        with open_side(options, workload, warmups) as our_side:
            ours = [our_side.run()["total"] for _ in range(runs)]
    pairs = zip(others, ours, strict=True)
    return PeerResult(
        name=peer.name,
        seconds=Spread.of(others),
        ours=Spread.of(ours),
        ratios=Spread.of([other / our for other, our in pairs]),
        together=together,
        note=peer.note,
        **end,
    )


def _in_turns(ours: Side, theirs: Side, runs: int) -> tuple[list[float], list[float]]:
    """One request each, in turns; who goes first alternates, so that a drift favours nobody."""
    seconds: dict[Side, list[float]] = {ours: [], theirs: []}
    for index in range(runs):
        for side in (ours, theirs) if index % 2 == 0 else (theirs, ours):
            seconds[side].append(side.run()["total"])
    return seconds[ours], seconds[theirs]


def _ended(side: Side, our_picture: Path) -> dict[str, Any]:
    picture = our_picture.with_name("theirs.png")
    side.save(picture)
    decibels = _psnr(our_picture, picture)
    return {
        "psnr_db": decibels,
        "load_s": side.ready["seconds"]["load"],
        "versions": side.ready["versions"],
        "peak_bytes": side.end()["peak_bytes"],
    }


def _psnr(ours: Path, theirs: Path) -> float | None:
    """Of pictures of one size; None where a peer has painted another."""
    with Image.open(ours) as first, Image.open(theirs) as second:
        if first.size != second.size:
            return None
        reference, found = (
            {"picture": np.asarray(picture.convert("RGB"))} for picture in (first, second)
        )
    return agreement("picture", found, reference, minimum_db=0.0).psnr_db
