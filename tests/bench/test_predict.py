"""Predictions: floors by data sheets, shares by published times; they say what they are."""

import json
from pathlib import Path

import pytest

from lightfill.bench import graph_costs, predict
from lightfill.bench.datasheets import SHEETS, sheet_named, sheet_of
from lightfill.bench.published import MARKS, known_gpu
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import InvalidInput


def test_an_h100_needs_seven_milliseconds_a_unet_call_at_least() -> None:
    found = predict.predicted("h100", (1024, 1024), 4)
    by_name = {stage.stage: stage for stage in found.stages}
    assert by_name["unet"].floor * 1000 / 4 == pytest.approx(6.83, abs=0.01)
    assert by_name["unet"].least == pytest.approx(0.1028)  # what was published for that very GPU
    assert by_name["unet"].share_least == pytest.approx(0.266, abs=0.001)
    assert found.floor == pytest.approx(sum(stage.floor for stage in found.stages))


def test_what_others_reached_is_a_range() -> None:
    found = predict.predicted("L40S", (1024, 1024), 3)
    unet = next(stage for stage in found.stages if stage.stage == "unet")
    assert unet.least < unet.most
    assert unet.floor < unet.least
    assert len(unet.sources) == len([mark for mark in MARKS if mark.stage == "unet"])


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: f"{mark.stage} {mark.gpu}")
def test_no_published_time_is_faster_than_its_floor(mark: predict.Mark) -> None:
    assert sheet_named(mark.gpu) is not None
    assert mark.stage in graph_costs.COMPONENTS
    assert 0.1 < predict.share_of(mark) < 1
    assert mark.source


def test_a_prediction_says_that_it_is_one() -> None:
    found = predict.predicted("a100", (512, 512), 3)
    text = predict.markdown(found)
    assert text.startswith("**PREDICTION, not a measurement**: NVIDIA A100 SXM 80 GB, 512x512")
    assert "microsoft/onnxruntime PR 18526" in text
    content = found.as_json()
    assert (content["kind"], content["measured"]) == ("prediction", False)
    assert json.loads(json.dumps(content))["gpu"] == "NVIDIA A100 SXM 80 GB"


def test_a_bundles_own_costs_can_be_predicted() -> None:
    costs = graph_costs.of_bundle(Bundle.open(), "float16", (256, 256), 4, 1)
    own = predict.predicted("l4", (256, 256), 3, costs)
    assert own.floor < predict.predicted("l4", (512, 512), 3).floor / 100


@pytest.mark.parametrize("name", ["RTX4090", "rtx 4090", "4090", "RTX-4090"])
def test_a_gpu_by_any_of_its_names(name: str) -> None:
    assert known_gpu(name) == "4090"


def test_an_unknown_gpu_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        InvalidInput, match=r"predict: no data sheet of 'abacus' .*h100.*l40s.*4090"
    ):
        predict.predicted("abacus", (1024, 1024), 3)


@pytest.mark.parametrize(
    ("driver", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("Simulated L4 of another kind", "l4"),
    ],
)
def test_the_drivers_names_of_gpus(driver: str, key: str | None) -> None:
    found = sheet_of(driver)
    assert (None if found is None else found.key) == key


def test_every_sheet_has_a_key_of_its_own() -> None:
    assert len({sheet.key for sheet in SHEETS}) == len(SHEETS)
    assert all(1e13 < sheet.flops < 1e16 and 1e11 < sheet.bytes < 1e13 for sheet in SHEETS)


def test_the_table_of_sdxl_is_what_its_counter_counts() -> None:
    """The committed file has the shape that `lightfill.export.cost_table` writes."""
    content = json.loads(Path(graph_costs.SDXL_COSTS).read_text())
    assert (content["schema_version"], content["arithmetic"]) == (1, "float16")
    assert content["model"] == "sdxl architecture, float16"
