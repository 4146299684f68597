"""Our side of a benchmark on a simulated GPU: every engine's run is timed by events."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_requests import workload
from simulated_gpu import Bench, Machine, add_engines, install

from lightfill.bench import own_side
from lightfill.bench.artefact import Run
from lightfill.bench.latency import _device_execution
from lightfill.bench.own_side import EngineOptions
from lightfill.bench.request_stages import timed_request
from lightfill.engine.bundle import Bundle
from lightfill.engine.engine_store import EngineStore
from lightfill.engine.sessions.device_times import DeviceTime


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine = install(monkeypatch, Machine())
    made = Bench(machine, EngineStore.of(Bundle.open(), tmp_path / "engines"), "rtx")
    add_engines(made.store, made.runtime, (64, 64))
    yield made
    made.close()
    assert machine.faults == []


def test_a_request_tells_each_components_time_on_the_gpu(gpu: Bench) -> None:
    options = EngineOptions(device="rtx", engines=gpu.store.root)
    times: list[DeviceTime] = []
    asked = workload(size=(64, 64))
    with own_side._opened(options.as_json(), asked, times) as inpainter:
        timed_request(inpainter, asked)
        times.clear()
        request = timed_request(inpainter, asked)
        answer = own_side._as_json(request, times)
    del answer["effective_steps"]
    run = Run(**answer)
    assert [each.component for each in run.device] == [
        "text_encoder", "text_encoder_2", "vae_encoder", "unet", "unet", "unet", "vae_decoder",
    ]  # fmt: skip
    execution = _device_execution([run, run])
    assert execution["unet"].count == 6
    assert 0 < execution["unet"].median < max(run.unet_calls)
