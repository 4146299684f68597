"""The training loop that all phases share: warm-up, decay, averaged weights, checkpoints, a log."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from PIL import Image
from torch import Tensor, nn

from .checkpoint import Checkpoint
from .muon import Muon

KEEP_S = 180.0
_PICTURE_S = 900.0
_LOG_EVERY = 50
_WARM_UP = 100
_DECAY = 0.2
"""The last share of a phase, in which the learning rate falls to nothing."""
_WEIGHT_DECAY = 1e-3
_MUON = 0.4
"""Muon's learning rate, of AdamW's beside it."""
_FRESH = 10.0
"""While a phase is young, its average is of about the last tenth of its updates."""


@dataclass(frozen=True)
class Phase:
    """loss: of update i, with named figures for the log. It must depend on i and the weights alone,
    so that a resumed run goes on as it would have. picture: a grid of samples, of the averaged
    weights. inner: the matrices among the weights that Muon updates; AdamW does the others.
    averaging: 1 over the number of updates that the kept weights are the mean of.
    """

    name: str
    updates: int
    learning_rate: float
    parts: dict[str, nn.Module]
    loss: Callable[[int], tuple[Tensor, dict[str, float]]]
    picture: Callable[[], Image.Image]
    inner: tuple[Tensor, ...] = ()
    averaging: float = 1e-3


def train(phase: Phase, checkpoint: Checkpoint, folder: Path, *, until: float) -> bool:
    """Run what is left of a phase; False if `until` (of time.monotonic) or a signal came first.

    The averaged weights are what the phase leaves in its parts.
    """
    if checkpoint.is_done(phase.name):
        _load(phase.parts, checkpoint)
        return True
    state = _State(phase, checkpoint)
    pictured = state.kept
    with _interruptions() as interrupted:
        while state.update < phase.updates:
            state.step()
            if state.update % _LOG_EVERY == 0:
                state.log(folder / "log.jsonl")
            stops = bool(interrupted) or time.monotonic() > until
            if stops or time.monotonic() - state.kept > KEEP_S:
                state.keep()
                if stops or state.kept - pictured > _PICTURE_S:
                    with state.averaged():
                        _write(phase.picture(), folder / f"{phase.name}.png")
                    pictured = time.monotonic()
            if stops and state.update < phase.updates:
                return False
    state.finish()
    _write(phase.picture(), folder / f"{phase.name}.png")
    return True


class _State:
    """Weights, their average, the optimiser and the time spent."""

    def __init__(self, phase: Phase, checkpoint: Checkpoint) -> None:
        self._phase, self._checkpoint = phase, checkpoint
        self._modules = nn.ModuleDict(phase.parts)
        trained: list[Tensor] = [
            weight for weight in self._modules.parameters() if weight.requires_grad
        ]
        self._trained = trained
        inner = {id(weight) for weight in phase.inner}
        self._adam = torch.optim.AdamW(
            [weight for weight in trained if id(weight) not in inner],
            lr=phase.learning_rate, betas=(0.9, 0.99), weight_decay=_WEIGHT_DECAY, fused=True,
        )  # fmt: skip
        self._muon = Muon(phase.inner, _WEIGHT_DECAY)
        self._average = [weight.detach().clone() for weight in trained]
        self.update, self._seconds = 0, 0.0
        self._figures: dict[str, list[float]] = {}
        if (progress := checkpoint.progress(phase.name)) is not None:
            self._modules.load_state_dict(progress["weights"])
            self._adam.load_state_dict(progress["adam"])
            self._muon.load_state_dict(progress["muon"])
            self._average = list(progress["average"])
            self.update, self._seconds = progress["update"], progress["seconds"]
        self.kept = time.monotonic()

    def step(self) -> None:
        """One update."""
        begun = time.monotonic()
        left = (self._phase.updates - self.update) / (_DECAY * self._phase.updates)
        rate = self._phase.learning_rate * min(1.0, (self.update + 1) / _WARM_UP, left)
        for group in self._adam.param_groups:
            group["lr"] = rate
        loss, figures = self._phase.loss(self.update)
        self._modules.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._adam.step()
        self._muon.step(_MUON * rate)
        weight = max(self._phase.averaging, _FRESH / (self.update + _FRESH))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._trained, weight)
        for name, figure in figures.items():
            self._figures.setdefault(name, []).append(figure)
        self.update += 1
        self._seconds += time.monotonic() - begun

    def log(self, path: Path) -> None:
        """A line with the means since the last one."""
        means = {name: round(sum(all_) / len(all_), 4) for name, all_ in self._figures.items()}
        self._figures.clear()
        spent = {"phase": self._phase.name, "update": self.update, "seconds": round(self._seconds)}
        line = json.dumps(spent | means)
        print(line, flush=True)
        with path.open("a") as file:
            file.write(line + "\n")

    def keep(self) -> None:
        self._checkpoint.keep(
            self._phase.name,
            {
                "weights": self._modules.state_dict(),
                "average": self._average,
                "adam": self._adam.state_dict(),
                "muon": self._muon.state_dict(),
                "update": self.update,
                "seconds": self._seconds,
            },
        )
        self.kept = time.monotonic()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the modules' place."""
        current = [weight.detach().clone() for weight in self._trained]
        self._set(self._average)
        yield
        self._set(current)

    def finish(self) -> None:
        self._set(self._average)
        parts = {name: part.state_dict() for name, part in self._phase.parts.items()}
        self._checkpoint.finish(self._phase.name, parts)

    def _set(self, weights: list[Tensor]) -> None:
        with torch.no_grad():
            for mine, given in zip(self._trained, weights, strict=True):
                mine.copy_(given)


def _load(parts: dict[str, nn.Module], checkpoint: Checkpoint) -> None:
    for name, part in parts.items():
        if (weights := checkpoint.weights(name)) is not None:
            part.load_state_dict(weights)


def _write(picture: Image.Image, path: Path) -> None:
    temporary = path.with_suffix(".tmp.png")
    picture.save(temporary)
    temporary.replace(path)


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Signals that ask to stop, collected: the update that runs is finished and kept."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
