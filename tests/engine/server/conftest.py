"""Servers of one test: on the embedded model, or on a scripted endpoint that answers at once."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from keyed_server import KeyedServer, keyed
from running_server import RunningServer, running
from scripted_endpoint import ScriptedEndpoint, fresh

from lightfill.engine.fal import endpoint as endpoint_module
from lightfill.engine.fal.settings import Settings
from lightfill.engine.pipeline import Inpainter


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedEndpoint]:
    """The endpoint of every server made in this test."""
    kind = fresh()
    monkeypatch.setattr(endpoint_module, "Endpoint", kind)
    return kind


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a server on any free port of this machine."""
    return Settings(data_dir=tmp_path / "data", port=0, allow_private_addresses=True)


@pytest.fixture
def server(settings: Settings, scripted: type[ScriptedEndpoint]) -> Iterator[RunningServer]:
    """A server whose jobs are scripted."""
    with running(settings) as started:
        yield started
    scripted.gate.set()


@pytest.fixture
def demo_server(settings: Settings, demo_inpainter: Inpainter) -> Iterator[RunningServer]:
    """A server on the embedded model, opened once for all tests."""
    with running(settings, inpainter=demo_inpainter) as started:
        yield started


@pytest.fixture(scope="module")
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedServer]:
    """A server that asks for keys, whose jobs are scripted; one for a module's tests."""
    kind = fresh()
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(endpoint_module, "Endpoint", kind)
            folder = tmp_path_factory.mktemp("keyed")
            started = stack.enter_context(keyed(folder, max_request_bytes=8 << 20))
        yield started
        kind.gate.set()
