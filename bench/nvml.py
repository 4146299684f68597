"""What NVIDIA's management library says of the GPU: model, limits, clocks, energy, memory.

Only where its Python package (`pip install nvidia-ml-py`) and a driver are installed; everything
here says None, or nothing, otherwise. Not yet run on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MILLI = 1000


@contextmanager
def _library() -> Iterator[Any]:
    """The module, initialised; None without the package or without a driver."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def describe(index: int = 0) -> dict[str, Any] | None:
    """Name, driver, memory in bytes, power limit in W, clocks in MHz now and at most."""
    with _library() as nvml:
        if nvml is None or index >= nvml.nvmlDeviceGetCount():
            return None
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        found = {
            "name": lambda: nvml.nvmlDeviceGetName(gpu),
            "driver": nvml.nvmlSystemGetDriverVersion,
            "memory_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
            "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / _MILLI,
            "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
            "sm_mhz_max": lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
            "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        }
        return {name: _asked(nvml, ask) for name, ask in found.items()}


def joules(index: int = 0) -> float | None:
    """Energy the GPU has used since its driver was loaded."""
    with _library() as nvml:
        if nvml is None or index >= nvml.nvmlDeviceGetCount():
            return None
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        used = _asked(nvml, lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu))
        return None if used is None else used / _MILLI


def memory_of_process(pid: int, index: int = 0) -> int | None:
    """GPU memory that a process holds now, in bytes."""
    with _library() as nvml:
        if nvml is None or index >= nvml.nvmlDeviceGetCount():
            return None
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        processes = _asked(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(gpu))
        return next((each.usedGpuMemory for each in processes or [] if each.pid == pid), None)


def _asked(nvml: Any, ask: Any) -> Any:
    """The answer, or None where this GPU does not tell."""
    try:
        answer = ask()
    except nvml.NVMLError:
        return None
    return answer.decode() if isinstance(answer, bytes) else answer
