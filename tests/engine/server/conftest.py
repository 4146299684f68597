"""Servers of one test: on the embedded model, or on a scripted endpoint that answers at once."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from keyed_server import KeyedServer, keyed
from running_server import RunningServer, running

from lightfill.engine.errors import Cancelled, InvalidInput
from lightfill.engine.fal import endpoint as endpoint_module
from lightfill.engine.fal.settings import Settings
from lightfill.engine.pipeline import Inpainter

OUTPUT = {"images": [], "timings": {}, "seed": 1, "has_nsfw_concepts": [], "prompt": "p"}


class ScriptedEndpoint:
    """Stands in for Endpoint: what a job does is its prompt.

    "wait" logs "step 1/2" and goes on when `gate` is set or the job is cancelled; "refuse" is an
    InvalidInput, "break" an unexpected error; anything else returns OUTPUT after two logs.
    """

    gate: threading.Event
    ran: list[dict[str, Any]]

    def __init__(self, *_: object) -> None: ...

    def warm_up(self) -> None: ...

    def run(
        self,
        arguments: Mapping[str, Any],
        *,
        on_log: Callable[..., None],
        cancelled: Callable[[], bool],
        owner: str | None,
    ) -> dict[str, Any]:
        self.ran.append(dict(arguments))
        prompt = arguments.get("prompt")
        if prompt == "refuse":
            raise InvalidInput("mask_url", "is not there; pass one")
        if prompt == "break":
            raise RuntimeError("secret")
        on_log("step 1/2", {"colour": "red"})
        while prompt == "wait" and not self.gate.wait(0.01):
            if cancelled():
                raise Cancelled("cancelled")
        on_log("step 2/2")
        return OUTPUT

    def close(self) -> None: ...


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedEndpoint]:
    """The endpoint of every server made in this test."""
    kind = type("Scripted", (ScriptedEndpoint,), {"gate": threading.Event(), "ran": []})
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
    kind = type("Scripted", (ScriptedEndpoint,), {"gate": threading.Event(), "ran": []})
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(endpoint_module, "Endpoint", kind)
            folder = tmp_path_factory.mktemp("keyed")
            started = stack.enter_context(keyed(folder, max_request_bytes=8 << 20))
        yield started
        kind.gate.set()
