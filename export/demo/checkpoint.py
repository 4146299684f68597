"""What training has reached, on disk: written under another name, then renamed."""

import os
from pathlib import Path
from typing import Any

import torch


class Checkpoint:
    """One file with everything a phase needs to go on; `done` phases are remembered by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = {"done": [], "phases": {}, "parts": {}}
        if path.exists():
            self.state = torch.load(path, weights_only=True)

    def is_done(self, phase: str) -> bool:
        return phase in self.state["done"]

    def progress(self, phase: str) -> dict[str, Any] | None:
        """What `keep` was given last for an unfinished phase."""
        found: dict[str, Any] | None = self.state["phases"].get(phase)
        return found

    def keep(self, phase: str, progress: dict[str, Any]) -> None:
        """Remember where an unfinished phase stands."""
        self.state["phases"][phase] = progress
        self._write()

    def finish(self, phase: str, parts: dict[str, dict[str, torch.Tensor]]) -> None:
        """A phase is over; `parts` are the weights that it leaves, by the part's name."""
        self.state["phases"].pop(phase, None)
        self.state["parts"].update(parts)
        self.state["done"].append(phase)
        self._write()

    def weights(self, part: str) -> dict[str, torch.Tensor] | None:
        """A part's weights as the last finished phase left them."""
        found: dict[str, torch.Tensor] | None = self.state["parts"].get(part)
        return found

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        torch.save(self.state, temporary)
        temporary.replace(self.path)
