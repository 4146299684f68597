"""How far a build is: TensorRT's phases are nested and each counts its own steps."""

from collections.abc import Callable


class Phases:
    """Follows the calls of TensorRT's progress monitor and tells one fraction, which only grows."""

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        self._tell = tell
        self._running: dict[str, tuple[str | None, int, int]] = {}
        """Phase -> the phase it is a step of, steps done, steps in all."""
        self._told = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins, inside a step of `parent`."""
        self._running[phase] = parent, 0, max(steps, 1)
        self._report(phase)

    def step(self, phase: str, number: int) -> None:
        """Step `number`, from 0, of a phase is complete."""
        if phase in self._running:
            parent, _, steps = self._running[phase]
            self._running[phase] = parent, min(number + 1, steps), steps
            self._report(phase)

    def finish(self, phase: str) -> None:
        """A phase is over, complete or not."""
        self._running.pop(phase, None)

    def _report(self, phase: str) -> None:
        fraction, at, seen = 0.0, phase, set[str]()
        while at in self._running and at not in seen:
            seen.add(at)
            parent, done, steps = self._running[at]
            fraction = min((done + fraction) / steps, 1.0)
            at = parent or ""
        self._told = max(self._told, fraction)
        self._tell(phase, self._told)
