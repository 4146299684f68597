"""`lightfill.fal` on a data directory of one test, with the demo model or a scripted endpoint."""

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lightfill.engine.errors import Cancelled, InvalidInput
from lightfill.engine.fal import endpoint as endpoint_module
from lightfill.engine.fal import runtime as runtime_module
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
    closed: int

    def __init__(self, settings: Settings, inpainter: object, files: object) -> None:
        self.settings = settings

    def run(
        self,
        arguments: Mapping[str, Any],
        *,
        on_log: Callable[[str], None],
        cancelled: Callable[[], bool],
        owner: str | None,
    ) -> dict[str, Any]:
        self.ran.append(dict(arguments))
        prompt = arguments.get("prompt")
        if prompt == "refuse":
            raise InvalidInput("mask_url", "is not there; pass one")
        if prompt == "break":
            raise RuntimeError("secret")
        on_log("step 1/2")
        while prompt == "wait" and not self.gate.wait(0.01):
            if cancelled():
                raise Cancelled("cancelled")
        on_log("step 2/2")
        return OUTPUT

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedEndpoint]:
    """The endpoint of every runtime made in this test."""
    fresh = {"gate": threading.Event(), "ran": [], "closed": 0}
    kind = type("Scripted", (ScriptedEndpoint,), fresh)
    monkeypatch.setattr(endpoint_module, "Endpoint", kind)
    return kind


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", allow_private_addresses=True)


@pytest.fixture
def fal(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`lightfill.fal`, configured on `settings`; every thread it started is gone afterwards."""
    import lightfill.fal as module

    monkeypatch.setattr(runtime_module, "_default", None)
    before = set(threading.enumerate())
    module.configure(settings)
    yield module
    module.shutdown()
    left = {each for each in threading.enumerate() if "asyncio" not in each.name} - before
    assert not left


@pytest.fixture
def demo_fal(fal: ModuleType, settings: Settings, demo_inpainter: Inpainter) -> ModuleType:
    """`lightfill.fal` on the embedded bundle, opened once for all tests."""
    fal.configure(settings, inpainter=demo_inpainter)
    return fal
