"""What a suite that takes hours has measured so far, so that a stopped one goes on where it was."""

import json
from pathlib import Path

from ..engine.atomic_write import write_atomically
from . import hardware


class SuiteProgress:
    """Names of finished measurements, in a file until the suite is done.

    Another machine, or another version of anything that is measured, starts anew: one run's figures
    belong together.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        described = hardware.describe()
        self._belongs_to = {
            name: described[name]
            for name in ("machine", "cores", "instruction_sets", "memory_bytes", "versions")
        }
        self._measured = self._kept()

    def __contains__(self, name: str) -> bool:
        return name in self._measured

    def add(self, name: str) -> None:
        """Keep that `name` was measured."""
        self._measured.append(name)
        state = {"belongs_to": self._belongs_to, "measured": self._measured}
        write_atomically(self._path, json.dumps(state, indent=1).encode())

    def finish(self) -> None:
        """The suite is done: its next run measures everything."""
        self._path.unlink(missing_ok=True)

    def _kept(self) -> list[str]:
        try:
            state = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return []
        same: bool = state["belongs_to"] == self._belongs_to
        return [str(name) for name in state["measured"]] if same else []
