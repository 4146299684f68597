"""The benchmark of the embedded model: its artefact is whole, and its times add up."""

import hashlib
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from bench_requests import workload
from PIL import Image
from run_directory import directory_of

from lightfill.bench import cold_start, graph_costs, latency, request_stages
from lightfill.bench.artefact import Latency, Run
from lightfill.bench.latency import Plan
from lightfill.bench.limits import DeviceLimit
from lightfill.bench.own_side import EngineOptions
from lightfill.bench.request_stages import STAGES
from lightfill.bench.roofline import Floor
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import (
    ComponentMissing,
    DeviceUnavailable,
    InvalidInput,
    LightfillError,
    SessionError,
)
from lightfill.engine.pipeline import Inpainter


def test_stage_times_add_up_to_the_total_within_five_percent(measured: Latency) -> None:
    assert len(measured.runs) == measured.total.count == 3
    shares = []
    for run in measured.runs:
        assert list(run.stages) == list(STAGES)
        assert all(seconds >= 0 for seconds in run.stages.values())
        assert sum(run.unet_calls) == pytest.approx(run.stages["unet"])
        shares.append(sum(run.stages.values()) / run.total)
    assert all(share <= 1.0001 for share in shares)  # nothing is counted twice
    assert median(shares) >= 0.95  # of a single run, another program may take the processor


def test_every_stage_has_its_spread_and_its_floor(measured: Latency) -> None:
    assert [stage.name for stage in measured.stages] == list(STAGES)
    for stage in measured.stages:
        seconds = [run.stages[stage.name] for run in measured.runs]
        assert stage.seconds.median == pytest.approx(median(seconds))
        assert stage.seconds.most == max(seconds)
        if stage.name == "safety":
            assert (stage.floor_s, stage.reason) == (None, "no checker ran: the bundle has none")
            continue
        assert stage.reason is None
        assert stage.floor_s is not None
        assert 0 < stage.floor_s < stage.seconds.most
        assert stage.share == pytest.approx(stage.floor_s / stage.seconds.median)
    by_name = {stage.name: stage for stage in measured.stages}
    calls = by_name["unet"].per_call
    assert calls is not None
    assert calls.count == 3 * measured.effective_steps == 9
    for name in ("unet", "vae_decode", "vae_encode"):
        unfused, floor = by_name[name].unfused_s, by_name[name].floor_s
        assert unfused is not None
        assert floor is not None
        assert unfused > floor
        assert (by_name[name].flops or 0) > 1e8
    assert measured.floor_s is not None
    assert 0 < measured.floor_s < measured.total.most


def test_what_is_beside_the_stages(measured: Latency) -> None:
    assert measured.second_prompt is not None
    assert measured.cold_start is not None
    assert measured.cold_start.before.median < measured.cold_start.seconds.median
    assert 100e6 < measured.peak_host_bytes < 2e9
    assert measured.peak_device_bytes is None
    assert measured.energy.joules or measured.energy.reason
    assert measured.limits[0].flops > 1e9
    assert measured.limits[0].bytes > 1e8
    assert measured.machine["versions"]["lightfill"]
    assert measured.machine["cores"] >= 1
    assert measured.engine["device"] == "cpu"
    assert measured.workload["image"]["file"] == "coffee.png"  # no path of this machine


def test_the_picture_lies_beside_the_figures(
    measured: Latency, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert measured.picture is not None
    path = directory_of(tmp_path_factory) / "bench" / measured.picture.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == measured.picture.sha256
    with Image.open(path) as picture:
        assert picture.size == (192, 192)


def run(total: float, **stages: float) -> Run:
    return Run(total=total, stages=stages, unet_calls=[])


def test_time_in_no_stage_is_noticed() -> None:
    assert latency.discrepancy([run(1.0, unet=0.5, text=0.48)]) == pytest.approx(0.02)
    assert latency.discrepancy([run(1.0, unet=0.9), run(1.0, unet=1.3)]) == pytest.approx(0.2)


@pytest.mark.parametrize("lost", ["vae_decode", "unet"])
def test_a_stage_that_loses_its_time_ends_the_benchmark(
    lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a clock were taken out of the pipeline: the sum falls short, and that is an error."""
    answers = Answers(lost)
    monkeypatch.setattr(latency, "open_side", lambda *_, **__: answers)
    with pytest.raises(LightfillError, match=r"differ from its total by \d+\.\d %"):
        latency._requests(EngineOptions(), workload(), Plan(runs=1, warmups=1), None)


class Answers:
    """A side that tells of one real request, less one stage."""

    def __init__(self, lost: str) -> None:
        self.lost = lost
        self.ready = {"low_memory": False}

    def __enter__(self) -> "Answers":
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self) -> dict[str, Any]:
        with Inpainter.open(cache_bytes=0) as inpainter:
            request_stages.timed_request(inpainter, workload())
            found = request_stages.timed_request(inpainter, workload())
        stages = {**found.stages, self.lost: 0.0}
        return {
            "total": found.total,
            "stages": stages,
            "unet_calls": [],
            "effective_steps": 3,
            "device": [],
        }

    def end(self) -> dict[str, Any]:
        return {"peak_bytes": 1, "device_bytes": None}


def test_a_host_alone_has_no_device_limit(tmp_path: Path) -> None:
    plan = Plan(runs=1, warmups=1, cold_starts=0, second_prompts=0, edge=256)
    found = latency.measure(EngineOptions(device="null"), workload(), plan)
    by_name = {stage.name: stage for stage in found.stages}
    assert by_name["unet"].reason == "the device null computes nothing"
    assert by_name["composite"].share is not None
    assert (found.share, found.floor_s, found.cold_start, found.second_prompt) == (None,) * 4


@pytest.mark.parametrize(
    ("options", "changes", "error", "message"),
    [
        ({}, {"image": Path("absent.png")}, InvalidInput, "image: absent.png is no file"),
        ({}, {"size": (32, 64)}, InvalidInput, "image_size: must be from 64"),
        ({}, {"batch": 9}, InvalidInput, "num_images: must be from 1 to 8"),
        ({}, {"steps": 3}, ComponentMissing, "no UNet for 3 steps"),
        ({"precision": "bf16"}, {}, InvalidInput, "precision: bf16 runs on openvino, not on cpu"),
        ({"precision": "fp8"}, {}, InvalidInput, "precision: 'fp8' is none; choose bf16"),
        (
            {"precision": "int8", "device": "openvino"},
            {},
            ComponentMissing,
            "no int8 unet; make it with `lightfill quantize",
        ),
        ({"device": "abacus"}, {}, DeviceUnavailable, "there is no device 'abacus'"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(
    options: dict[str, Any], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        latency.check(EngineOptions(**options), workload(**changes))


def test_a_cold_start_that_fails_says_why() -> None:
    with pytest.raises(SessionError, match=r"inpaint` failed: error: bundle .* no UNet"):
        cold_start.measured(EngineOptions(), workload(steps=3), 1)


def test_below_float32_no_share_of_float32s_limit_is_given() -> None:
    options, done = EngineOptions(device="openvino", precision="bf16"), workload()
    limit = DeviceLimit(device="processor", flops=1e11, bytes=1e10, sources=["made up"])
    floors = latency._floors(Bundle.open(), options, done, [limit], 4)
    for stage in graph_costs.COMPONENTS:
        assert floors[stage] == "the limit that was measured is float32's, which bf16 may exceed"
    exact = latency._floors(Bundle.open(), EngineOptions(device="openvino"), done, [limit], 4)
    assert all(isinstance(exact[stage], Floor) for stage in graph_costs.COMPONENTS)
    entry = latency.engine_entry(Bundle.open(), options, low_memory=False)
    assert (entry["device"], entry["arithmetic"]) == ("openvino", "bf16")
