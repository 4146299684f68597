"""The peak is what a process held at most, since the moment asked for."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightfill.engine import peak_memory

MB = 1 << 20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux restarts peaks")

PROGRAM = f"""
from lightfill.engine.peak_memory import peak_bytes, restart
print(peak_bytes())
held = bytearray(b"x") * (200 * {MB})
print(peak_bytes())
del held
print(peak_bytes())
restart()
print(peak_bytes())
held = bytearray(b"x") * (50 * {MB})
print(peak_bytes())
"""


@pytest.fixture(scope="module")
def peaks() -> list[float]:
    """Megabytes before, with and after 200 MB, after a restart, and with 50 MB then."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, check=True)
    return [int(line) / MB for line in ran.stdout.split()]


def test_what_was_held_at_most_is_reported_even_when_it_is_gone(peaks: list[float]) -> None:
    before, held, after, *_ = peaks
    assert 5 < before < 200
    assert held - before == pytest.approx(200, abs=15)
    assert after == pytest.approx(held, abs=5)


@on_linux
def test_restart_forgets_an_earlier_peak_and_sees_a_later_one(peaks: list[float]) -> None:
    before, held, _, restarted, later = peaks
    assert restarted < held - 150
    assert restarted == pytest.approx(before, abs=15)
    assert later - restarted == pytest.approx(50, abs=15)


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "missing" / "status")
    monkeypatch.setattr(peak_memory, "_CLEAR", tmp_path / "missing" / "clear_refs")


@on_linux
def test_without_proc_the_peak_is_since_the_start(no_proc: None) -> None:
    peak_memory.restart()
    resource = pytest.importorskip("resource")
    assert peak_memory.peak_bytes() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_macos_counts_in_bytes(no_proc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=123456))
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory.peak_bytes() == 123456


def test_windows_has_no_resource_module(no_proc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=654321))
    monkeypatch.setattr(peak_memory.psutil, "Process", lambda: process)
    assert peak_memory.peak_bytes() == 654321
