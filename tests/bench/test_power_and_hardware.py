"""Counters of energy, clocks and GPUs, on machines made of files and a module."""

import platform
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from lightfill.bench import energy, hardware, nvml


def rapl(root: Path, domain: str, name: str, joules: float, wraps_at: float = 1000.0) -> Path:
    place = root / domain
    place.mkdir()
    (place / "name").write_text(f"{name}\n")
    (place / "max_energy_range_uj").write_text(str(int(wraps_at * 1e6)))
    (place / "energy_uj").write_text(str(int(joules * 1e6)))
    return place / "energy_uj"


def test_packages_are_counted_and_their_parts_are_not(tmp_path: Path) -> None:
    counter = rapl(tmp_path, "intel-rapl:0", "package-0", 10)
    rapl(tmp_path, "intel-rapl:0:0", "core", 5)
    second = rapl(tmp_path, "intel-rapl:1", "package-1", 990)
    found, reason = energy.counters(tmp_path)
    assert ([each.name for each in found], reason) == (["package-0", "package-1"], None)
    before = energy.reading(found)
    counter.write_text(str(int(12.5e6)))
    second.write_text(str(int(5e6)))  # it wrapped at 1000
    assert energy.spent(found, before) == pytest.approx({"package-0": 2.5, "package-1": 15.0})


def test_no_counter_has_a_reason_and_no_figure(tmp_path: Path) -> None:
    found, reason = energy.counters(tmp_path)
    assert found == []
    assert reason == "this system has no RAPL counters (powercap), and no NVIDIA GPU that tells"


def test_counters_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 10).unlink()
    found, reason = energy.counters(tmp_path)
    assert found == []
    assert reason is not None
    assert reason.startswith("RAPL counters cannot be read (")
    assert reason.endswith("run as root")


def test_instruction_sets_are_what_the_processor_has() -> None:
    found = hardware.describe()["instruction_sets"]
    assert found
    assert all(isinstance(each, str) for each in found)
    flags = Path("/proc/cpuinfo")
    if platform.machine() == "x86_64" and flags.exists():
        text = flags.read_text().split()
        assert ("X86_V3" in found) is ("avx2" in text)
        assert ("X86_V4" in found) is ("avx512vl" in text)


def test_clocks_and_their_governor(tmp_path: Path) -> None:
    for core, governor in enumerate(("performance", "powersave")):
        place = tmp_path / f"cpu{core}" / "cpufreq"
        place.mkdir(parents=True)
        (place / "scaling_governor").write_text(f"{governor}\n")
        (place / "cpuinfo_max_freq").write_text("3600000\n")
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\ncpu MHz\t\t: 2596.1\nprocessor : 1\ncpu MHz : 800.0\n")
    assert hardware.clocks(tmp_path, info) == {
        "governor": "performance, powersave",
        "mhz_max": 3600.0,
        "mhz_now": [2596.1, 800.0],
    }
    unknown = {"governor": None, "mhz_max": None, "mhz_now": None}
    assert hardware.clocks(tmp_path / "none", tmp_path / "none") == unknown


class Library(types.ModuleType):
    """nvidia-ml-py's names over one simulated GPU."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, gpu: int) -> bytes:
        return b"NVIDIA L4"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:
        return types.SimpleNamespace(total=24 << 30)

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: int) -> int:
        return 72_000

    def nvmlDeviceGetClockInfo(self, gpu: int, kind: int) -> int:
        return {self.NVML_CLOCK_SM: 2040, self.NVML_CLOCK_MEM: 6251}[kind]

    def nvmlDeviceGetMaxClockInfo(self, gpu: int, kind: int) -> int:
        raise self.NVMLError("not supported")

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        return 5_000

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[Any]:
        return [types.SimpleNamespace(pid=7, usedGpuMemory=123)]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def test_a_gpu_is_described_and_what_it_does_not_tell_is_none(library: Library) -> None:
    assert nvml.describe() == {
        "name": "NVIDIA L4",
        "driver": "580.1",
        "memory_bytes": 24 << 30,
        "power_limit_w": 72.0,
        "sm_mhz": 2040,
        "sm_mhz_max": None,
        "memory_mhz": 6251,
    }
    assert (nvml.joules(), nvml.memory_of_process(7), nvml.memory_of_process(8)) == (5.0, 123, None)
    assert nvml.describe(1) is nvml.joules(1) is None
    assert library.open == 0


def test_its_energy_is_counted(library: Library, tmp_path: Path) -> None:
    found, reason = energy.counters(tmp_path)
    assert ([each.name for each in found], reason) == (["GPU 0"], None)
    assert energy.spent(found, {"GPU 0": 3.0}) == {"GPU 0": 2.0}


@pytest.mark.parametrize("absent", ["package", "driver"])
def test_without_package_or_driver_nothing_is_said(
    absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library: Any = None if absent == "package" else Library()
    if library is not None:

        def no_driver() -> None:
            raise library.NVMLError("no driver")

        library.nvmlInit = no_driver
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert nvml.describe() is nvml.joules() is nvml.memory_of_process(1) is None
