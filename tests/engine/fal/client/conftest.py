"""`lightfill.fal` in this process and before a server, with the demo model or a scripted one."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from running_server import RunningServer, running
from scripted_endpoint import ScriptedEndpoint, fresh

from lightfill.engine.fal import endpoint as endpoint_module
from lightfill.engine.fal import runtime as runtime_module
from lightfill.engine.fal.files import Files
from lightfill.engine.fal.settings import Settings
from lightfill.engine.pipeline import Inpainter


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedEndpoint]:
    """The endpoint of every runtime made in this test."""
    kind = fresh()
    monkeypatch.setattr(endpoint_module, "Endpoint", kind)
    return kind


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", port=0, allow_private_addresses=True)


@pytest.fixture
def fal_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`lightfill.fal`, not configured; every thread it started is gone afterwards."""
    import lightfill.fal as module

    monkeypatch.setattr(runtime_module, "_default", None)
    for name in ("FAL_KEY", "FAL_KEY_ID", "FAL_KEY_SECRET"):
        monkeypatch.delenv(name, raising=False)
    before = set(threading.enumerate())
    yield module
    module.shutdown()
    give_up = time.monotonic() + 10  # a server's threads end by themselves, after its loop
    while left := {each for each in threading.enumerate() if "asyncio" not in each.name} - before:
        assert time.monotonic() < give_up, left
        time.sleep(0.01)


@pytest.fixture
def fal(fal_module: ModuleType, settings: Settings) -> ModuleType:
    """`lightfill.fal` in this process, configured on `settings`."""
    fal_module.configure(settings)
    return fal_module


@pytest.fixture
def demo_fal(fal: ModuleType, settings: Settings, demo_inpainter: Inpainter) -> ModuleType:
    """`lightfill.fal` on the embedded bundle, opened once for all tests."""
    fal.configure(settings, inpainter=demo_inpainter)
    return fal


class Somewhere:
    """What answers `lightfill.fal`: this process, or a server of this test.

    settings: those of what answers.
    """

    def __init__(self, fal: ModuleType, settings: Settings, *, remote: bool) -> None:
        self.fal = fal
        self.settings = settings
        self._remote = remote
        self._running = ExitStack()
        self.server: RunningServer | None = None

    def start(self, *, worker: bool = True, inpainter: Any = None, **changes: Any) -> ModuleType:
        """`lightfill.fal`, answered on the settings with these changes from now on.

        worker: whether jobs are run at all.
        """
        self.stop()
        self.settings = replace(self.settings, **changes)
        if not self._remote:
            self.fal.configure(self.settings, worker=worker, inpainter=inpainter)
            return self.fal
        settings = replace(self.settings, workers=int(worker))
        self.server = self._running.enter_context(running(settings, inpainter=inpainter))
        # A data directory without files: what the server has comes from there alone.
        elsewhere = settings.data_dir.with_name("none")
        self.fal.configure(base_url=self.server.origin, data_dir=elsewhere)
        return self.fal

    @property
    def files(self) -> Files:
        """The stored files of what answers."""
        return Files(self.settings) if self.server is None else self.server.site.files

    def stop(self) -> None:
        """Stop what answers; what waits, waits on."""
        self._running.close()
        self.fal.shutdown()


@pytest.fixture(params=["in process", "server"])
def somewhere(
    request: pytest.FixtureRequest,
    fal_module: ModuleType,
    settings: Settings,
    scripted: type[ScriptedEndpoint],
) -> Iterator[Somewhere]:
    """Both places, one after the other; not started yet. The endpoint is scripted."""
    place = Somewhere(fal_module, settings, remote=request.param == "server")
    yield place
    scripted.gate.set()
    place.stop()


@pytest.fixture(params=["in process", "server"])
def demo_somewhere(
    request: pytest.FixtureRequest,
    fal_module: ModuleType,
    settings: Settings,
    demo_inpainter: Inpainter,
) -> Iterator[ModuleType]:
    """`lightfill.fal` before the embedded model, in both places."""
    place = Somewhere(fal_module, settings, remote=request.param == "server")
    yield place.start(inpainter=demo_inpainter)
    place.stop()
