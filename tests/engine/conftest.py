"""Fixtures of the engine's tests: a simulated GPU, the float16 graphs on the CPU, databases."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import postgres_server
import pytest
from simulated_gpu import Bench, Machine, install

from lightfill.engine.bundle import Bundle
from lightfill.engine.engine_store import EngineStore
from lightfill.engine.sessions import SessionOptions, base
from lightfill.engine.sessions.onnxruntime import OnnxRuntimeSession


@pytest.fixture(params=["rtx", "tensorrt"])
def bench(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Bench]:
    """A bench of each flavour; nothing may leak from it, and nothing unexpected be a fault."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine = install(monkeypatch, Machine())
    made = Bench(machine, EngineStore.of(Bundle.open(), tmp_path / "engines"), request.param)
    yield made
    made.close()
    assert machine.faults == []


@pytest.fixture(scope="session")
def reference(private_cache: None) -> Callable[[str, base.Feed], dict[str, np.ndarray]]:
    """The CPU session of the same float16 graph that engines are built from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(base.ARITHMETIC, "cpu", "float16")
        bundle = Bundle.open()
        sessions = {
            name: OnnxRuntimeSession(
                bundle.graph(name, "float16"), name, bundle.contract(name), "cpu", SessionOptions()
            )
            for name in bundle.manifest.components
        }
    return lambda component, feed: sessions[component].run(feed)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server, started once, by the first test that needs it."""
    with postgres_server.running() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.sqlite3'}"
    return postgres_server.fresh_schema(request.getfixturevalue("postgres"))
