"""Two artefacts side by side, and what makes them hard to compare."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import report
from .artefact import Latency, read
from .spread import Spread


def compare(first: Path, second: Path) -> str:
    """Stage by stage as Markdown; differences in what was asked or where it ran come first."""
    before, after = read(first, Latency), read(second, Latency)
    notes = list(differences(before, after))
    names = (first.stem, second.stem) if first.stem != second.stem else (str(first), str(second))
    table = report.comparison(_rows(before, after), names)
    return "".join(f"- {note}\n" for note in notes) + ("\n" if notes else "") + table


def differences(first: Latency, second: Latency) -> Iterator[str]:
    """What differs beside the figures."""
    for section in ("workload", "engine"):
        ours, theirs = getattr(first, section), getattr(second, section)
        for name in ours:
            if ours[name] != theirs.get(name):
                yield f"other {name}: {_said(ours[name])}, then {_said(theirs.get(name))}"
    for name in ("machine", "gpu", "clocks", "versions"):
        ours, theirs = first.machine[name], second.machine[name]
        if name == "clocks":  # what they are at one moment says little
            ours, theirs = ours["governor"], theirs["governor"]
        if name == "versions":  # of a dozen, those that matter
            ours, theirs = _changed(ours, theirs), _changed(theirs, ours)
        if ours != theirs:
            yield f"other {name}: {_said(ours)}, then {_said(theirs)}"


def _rows(first: Latency, second: Latency) -> Iterator[tuple[str, Spread, Spread]]:
    by_name = {stage.name: stage for stage in second.stages}
    for stage in first.stages:
        other = by_name[stage.name]
        yield report.NAMES[stage.name], stage.seconds, other.seconds
        if stage.per_call and other.per_call:
            yield "UNet, one call", stage.per_call, other.per_call
    yield "total", first.total, second.total
    if first.second_prompt and second.second_prompt:
        yield "second prompt", first.second_prompt, second.second_prompt
    if first.cold_start and second.cold_start:
        yield "cold start", first.cold_start.seconds, second.cold_start.seconds


def _changed(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    names = {**ours, **theirs}
    return {name: ours.get(name) for name in names if ours.get(name) != theirs.get(name)}


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items()) or "nothing"
    return "nothing" if value is None else str(value)
