"""Fixtures every test may use: isolated user directories and the embedded demo model."""

import signal
from collections.abc import Iterator

import pytest
import run_directory
from hypothesis import HealthCheck, settings

from lightfill.engine.pipeline import Inpainter

# A slow or shared machine is no failure: benchmarks guard speed, these tests behaviour.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell starts background jobs with Ctrl-C ignored; tests that interrupt a command mean it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stamps of verified bundles, jobs and files go to directories of this test run."""
    cache = run_directory.directory_of(tmp_path_factory) / "cache"
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def demo_inpainter(private_cache: None) -> Iterator[Inpainter]:
    """The embedded demo model on the CPU, opened once. Tests that close or patch open their own."""
    with Inpainter.open() as inpainter:
        yield inpainter


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Leave the figures the parity tests measured in the log of every run."""
    measured = [
        report.capstdout
        for report in terminalreporter.getreports("passed")
        if report.nodeid.startswith("tests/parity/") and report.capstdout
    ]
    if measured:
        terminalreporter.section("measured against diffusers and PyTorch")
        terminalreporter.write("".join(measured))
