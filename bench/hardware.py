"""The machine a figure belongs to: processor, cores, memory, clocks, load, GPU, versions."""

import os
from pathlib import Path
from typing import Any

from ..engine.doctor import machine, runtime_versions
from . import nvml

_CPUS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")


def describe() -> dict[str, Any]:
    """As an artefact keeps it; what is not known here is None."""
    import psutil

    return {
        "machine": machine(),
        "cores": cores(),
        "instruction_sets": instruction_sets(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "available_bytes": int(psutil.virtual_memory().available),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "clocks": clocks(),
        "gpu": nvml.describe(),
        "versions": runtime_versions(),
    }


def cores() -> int:
    """How many this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def instruction_sets() -> list[str]:
    """Of vectors, as NumPy names those it has code for and finds here: X86_V4 means AVX-512."""
    import numpy as np

    extensions = np.show_config(mode="dicts")["SIMD Extensions"]
    return [*extensions["baseline"], *extensions["found"]]


def clocks(cpus: Path = _CPUS, cpuinfo: Path = _CPUINFO) -> dict[str, Any]:
    """Of the processor: MHz of each core now and at most, and who governs them."""
    governors = {_text(file) for file in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    limits = [_text(file) for file in cpus.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")]
    highest = max((int(limit) for limit in limits if limit and limit.isdecimal()), default=None)
    return {
        "governor": ", ".join(sorted(filter(None, governors))) or None,
        "mhz_max": None if highest is None else highest / 1000,
        "mhz_now": _now(cpuinfo),
    }


def _now(cpuinfo: Path) -> list[float] | None:
    text = _text(cpuinfo) or ""
    found = [
        float(line.partition(":")[2]) for line in text.splitlines() if line.startswith("cpu MHz")
    ]
    return found or None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
