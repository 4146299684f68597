"""The largest resident memory of this process since a moment, in bytes."""

import sys
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def restart() -> None:
    """Measure from now on, where the system can (Linux); elsewhere peaks are since the start."""
    try:
        _CLEAR.write_text("5")  # proc(5): resets the high water mark VmHWM
    except OSError:
        return


def peak_bytes() -> int:
    """The high water mark."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
