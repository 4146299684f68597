"""Servers for real clients, and node to run the JavaScript ones."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from keyed_server import KeyedServer, keyed
from patched_fal_client import Fal, Make, fal_clients
from running_server import RunningServer, running
from scripted_endpoint import ScriptedEndpoint, fresh
from sqlalchemy import select

from lightfill.engine.fal import endpoint as endpoint_module
from lightfill.engine.fal.jobs_table import COMPLETED, jobs
from lightfill.engine.fal.settings import Settings
from lightfill.engine.pipeline import Inpainter

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
INSTALL = "npm ci --prefix tests/clients"
FILES = {"image_url": "data:,x", "mask_url": "data:,x"}
"""What a request needs besides its prompt; scripted endpoints do not open them."""
_PATIENCE_S = 120.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a server on any free port of this machine."""
    return settings_in(tmp_path)


def settings_in(folder: Path) -> Settings:
    return Settings(data_dir=folder / "data", port=0, allow_private_addresses=True)


@pytest.fixture(scope="module")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RunningServer, type[ScriptedEndpoint]]]:
    """A server whose jobs are scripted, for one module after the other."""
    kind = fresh()
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # ready, it has made its endpoint
            patch.setattr(endpoint_module, "Endpoint", kind)
            server = stack.enter_context(running(settings_in(tmp_path_factory.mktemp("shared"))))
        yield server, kind


@pytest.fixture
def server(
    shared_server: tuple[RunningServer, type[ScriptedEndpoint]],
) -> Iterator[RunningServer]:
    """The shared server, without jobs from before."""
    started, kind = shared_server
    kind.gate.clear()
    kind.ran.clear()
    yield started
    kind.gate.set()
    unfinished = select(jobs.c.request_id).where(jobs.c.state != COMPLETED)
    while started.site.queue.database.read(lambda each: each.execute(unfinished).all()):
        time.sleep(0.01)


@pytest.fixture
def scripted(
    server: RunningServer, shared_server: tuple[RunningServer, type[ScriptedEndpoint]]
) -> type[ScriptedEndpoint]:
    """What the server's jobs are."""
    return shared_server[1]


@pytest.fixture(scope="module")
def demo_server(
    tmp_path_factory: pytest.TempPathFactory, demo_inpainter: Inpainter
) -> Iterator[RunningServer]:
    """A server on the embedded model, for one module after the other."""
    folder = tmp_path_factory.mktemp("demo")
    with running(settings_in(folder), inpainter=demo_inpainter) as started:
        yield started


@pytest.fixture
def keyed_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyedServer]:
    """A server that asks for keys, its jobs scripted; `scripted_of` gives them."""
    kind = fresh()
    monkeypatch.setattr(endpoint_module, "Endpoint", kind)
    with keyed(tmp_path / "data") as started:
        yield started
        kind.gate.set()


def scripted_of(server: RunningServer) -> ScriptedEndpoint:
    """The scripted endpoint of a server."""
    endpoint = server.site.runtime.endpoint
    assert isinstance(endpoint, ScriptedEndpoint)
    return endpoint


class Node:
    """node, with fal's clients beside it."""

    def __init__(self, executable: str, packages: Path) -> None:
        self.executable = executable
        self.packages = packages

    def report(
        self,
        script: Path,
        *,
        heard: Callable[[str], object] = lambda _: None,
        parameters: dict[str, Any] | None = None,
        **environment: str,
    ) -> Any:
        """What the script reports; `heard` is told what it says meanwhile. It must end well."""
        known = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        given = {"PARAMETERS": json.dumps(parameters or {}), **environment}
        process = subprocess.Popen(
            [self.executable, script], env=known | given, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        found, printed = [], []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                kind, _, text = line.rstrip("\n").partition(" ")
                if kind == "SAY":
                    heard(text)
                elif kind == "REPORT":
                    found.append(json.loads(text))
                else:
                    printed.append(line)
            assert process.wait(_PATIENCE_S) == 0, "".join(printed)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        assert len(found) == 1, "".join(printed)
        return found[0]


def found_node(search: str, packages: Path, *, is_required: bool) -> Node:
    """node with fal's clients; without them the test is skipped, or fails if they must be here."""
    executable = shutil.which("node", path=search)
    if executable is not None and (packages / "@fal-ai/client").is_dir():
        return Node(executable, packages)
    if executable is None:
        reason = f"node is not here: install Node.js 18 or newer and npm, then run `{INSTALL}`"
    else:
        reason = f"fal's JavaScript clients are not here: run `{INSTALL}`"
    if is_required:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def node() -> Node:
    """node with fal's clients."""
    is_required = os.environ.get("TESTS_REQUIRE_NODE") == "1"
    return found_node(os.environ["PATH"], HERE / "node_modules", is_required=is_required)


OLD, NEW = "@fal-ai/serverless-client", "@fal-ai/client"


class JavaScript:
    """One of fal's JavaScript clients, pointed at a server in one way."""

    def __init__(self, node: Node, package: str, way: str) -> None:
        self._node = node
        self.package = package
        self.way = way

    @property
    def is_old(self) -> bool:
        return self.package == OLD

    def report(
        self,
        script: str,
        server: RunningServer,
        *,
        key: str = "id:secret",
        heard: Callable[[str], object] = lambda _: None,
        **parameters: Any,
    ) -> Any:
        """What `scripts/{script}.mjs` reports of it."""
        return self._node.report(
            SCRIPTS / f"{script}.mjs", heard=heard, parameters=parameters, CLIENT=self.package,
            WAY=self.way, ORIGIN=server.origin, FAL_KEY=key,
        )  # fmt: skip


@pytest.fixture(params=[OLD, NEW])
def javascript(node: Node, request: pytest.FixtureRequest) -> JavaScript:
    """Both clients, pointed by a request middleware."""
    return JavaScript(node, request.param, "middleware")


@pytest.fixture(
    params=[(OLD, "proxy"), (NEW, "proxy"), (OLD, "fetch"), (NEW, "fetch")], ids="-".join
)
def otherwise(node: Node, request: pytest.FixtureRequest) -> JavaScript:
    """Both clients, pointed in another way."""
    return JavaScript(node, *request.param)


@pytest.fixture(params=["blocking", "asyncio"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes fal-client's clients, blocking and asyncio."""
    with fal_clients(request.param, monkeypatch) as made:
        yield made


@pytest.fixture
def fal(make: Make, server: RunningServer) -> Fal:
    """Before scripted jobs."""
    return make(server)


@pytest.fixture
def painting(make: Make, demo_server: RunningServer) -> Fal:
    """Before the embedded model."""
    return make(demo_server)
