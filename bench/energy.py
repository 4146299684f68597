"""Energy that requests take, where the platform counts it: processors (RAPL) and NVIDIA's GPUs.

A counter runs on from its start; what a request took is the difference. Where there is none, the
reason is reported, never a zero.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import nvml

_POWERCAP = Path("/sys/class/powercap")
_MICRO = 1e-6


@dataclass(frozen=True)
class Counter:
    """joules: reads it. wraps_at: joules at which it starts again from 0, or None."""

    name: str
    joules: Callable[[], float]
    wraps_at: float | None = None

    def since(self, before: float) -> float:
        """Joules used since it read `before`."""
        used = self.joules() - before
        return used + self.wraps_at if used < 0 and self.wraps_at is not None else used


def counters(powercap: Path = _POWERCAP) -> tuple[list[Counter], str | None]:
    """What this machine counts, and, if that is nothing, why."""
    found, reason = _processors(powercap)
    if nvml.joules() is not None:
        found.append(Counter("GPU 0", lambda: nvml.joules() or 0.0))
    return found, None if found else reason


def reading(found: list[Counter]) -> Mapping[str, float]:
    """Every counter now."""
    return {counter.name: counter.joules() for counter in found}


def spent(found: list[Counter], before: Mapping[str, float]) -> dict[str, float]:
    """Joules by counter since `before`."""
    return {counter.name: counter.since(before[counter.name]) for counter in found}


def _processors(powercap: Path) -> tuple[list[Counter], str]:
    found = []
    reason = "this system has no RAPL counters (powercap), and no NVIDIA GPU that tells"
    for domain in sorted(powercap.glob("*-rapl:[0-9]*")):
        if domain.name.count(":") != 1:  # a part of a package, counted in it
            continue
        try:
            name = (domain / "name").read_text(encoding="utf-8").strip()
            wraps_at = _read(domain / "max_energy_range_uj")
            _read(domain / "energy_uj")
        except (OSError, ValueError) as error:
            reason = f"RAPL counters cannot be read ({error}); run as root"
            continue
        energy = domain / "energy_uj"
        found.append(Counter(name, lambda energy=energy: _read(energy), wraps_at))  # type: ignore[misc]
    return found, reason


def _read(file: Path) -> float:
    return int(file.read_text(encoding="utf-8")) * _MICRO
