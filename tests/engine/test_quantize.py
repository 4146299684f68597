"""`lightfill quantize` on the embedded model: pictures hold up, or nothing is kept."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightfill import Inpainter
from lightfill.engine import calibration, cli, memory
from lightfill.engine.bundle import DEMO_BUNDLE, Bundle
from lightfill.engine.errors import (
    BundleCorrupt,
    ComponentMissing,
    ExportError,
    InvalidInput,
)
from lightfill.engine.quantize import QuantizationRequest, quantize
from lightfill.engine.quantized_store import QuantizedStore
from lightfill.engine.sessions import SessionOptions, open_session
from lightfill.engine.sessions.openvino import ov
from lightfill.engine.sessions.residency import OneResident
from lightfill.engine.verify import MINIMUM_DB, verify

pytestmark = pytest.mark.slow  # NNCF reads the network's activations run by run: half a minute
PHOTO = calibration.photo(64, 64, 99)
MASK = np.pad(np.full((32, 32), 255, np.uint8), 16)


def request(bundle: Bundle, **changes: Any) -> QuantizationRequest:
    given = {"size": (64, 64), "steps": (4,), "calibration_runs": 4, "judging_runs": 2}
    return QuantizationRequest(bundle=bundle, **given | changes)


@pytest.fixture(scope="module")
def stages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, stages: list[str]) -> Bundle:
    root = shutil.copytree(DEMO_BUNDLE, tmp_path_factory.mktemp("quantized") / "bundle")
    opened = Bundle.open(root)
    quantize(request(opened), stages.append)
    return opened


@pytest.fixture
def quantized_before(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """NNCF's half minute is spent once: later calls get the network it made, and judge that."""
    from lightfill.export import quantization

    made = QuantizedStore(bundle).path("unet")

    def copied(_graph: Path, _feeds: object, network: Path) -> None:
        for suffix in (".xml", ".bin"):
            shutil.copy(made.with_suffix(suffix), network.with_suffix(suffix))

    monkeypatch.setattr(quantization, "write_quantized", copied)


def picture(bundle: Bundle, **options: Any) -> np.ndarray:
    with Inpainter.open(bundle.root, **options) as inpainter:
        result = inpainter(PHOTO, MASK, "a red ball", image_size=(64, 64), seed=1, strength=1.0)
    return np.asarray(result.image).astype(int)


def test_record_says_how_far_steps_and_pictures_are(bundle: Bundle, stages: list[str]) -> None:
    record = QuantizedStore(bundle).record("unet")
    assert record is not None
    assert record.step_psnr_db.keys() == {"999", "749", "499", "249"}
    assert all(20 < psnr < 80 for psnr in record.step_psnr_db.values()), record
    assert 30 <= record.picture_psnr_db < 90
    assert record.made_with.keys() == {"nncf", "openvino"}
    assert (record.calibrated_on, record.measured_on) == (4, 2)
    assert [stage.split(", ")[0] for stage in stages if "of 6" in stage] == ["unet: float32"] * 6
    assert [path.name for path in QuantizedStore(bundle).path("unet").parent.glob(".*")] == []


def test_products_are_int8_but_the_first_and_last(bundle: Bundle) -> None:
    network = ov.Core().read_model(QuantizedStore(bundle).path("unet"))
    stored = [op for op in network.get_ops() if op.get_type_name() == "Constant"]
    in_bytes = [op for op in stored if op.get_element_type() in {ov.Type.i8, ov.Type.u8}]
    assert len(in_bytes) > 100
    halves = [op.get_friendly_name() for op in stored if op.get_element_type() == ov.Type.f16]
    assert {"conv_in.weight", "conv_out.weight"} <= set(halves)
    size = QuantizedStore(bundle).path("unet").with_suffix(".bin").stat().st_size
    assert size < 0.6 * bundle.manifest.files["unet/weights.bin"].bytes


def test_int8_runs_and_is_not_float32(bundle: Bundle) -> None:
    exact = picture(bundle, device="openvino")
    for options in ({}, {"low_memory": True}):
        int8 = picture(bundle, device="openvino", precision="int8", **options)
        difference = np.abs(int8 - exact)
        assert 0 < difference.max() < 60
        assert difference[MASK == 0].max() == 0
        assert np.sqrt((difference[MASK > 0] ** 2).mean()) < 255 / 10 ** (MINIMUM_DB["int8"] / 20)


def test_verify_compares_the_quantized_device(bundle: Bundle) -> None:
    options = SessionOptions(precision="int8")
    found = {part.part: part for part in verify(bundle, "openvino", (64, 64), options)}
    assert all(part.passed for part in found.values()), found
    assert found["unet"].psnr_db < 80 < found["vae_decoder"].psnr_db


def test_damage_is_refused_when_the_unet_loads(bundle: Bundle, tmp_path: Path) -> None:
    copy = Bundle.open(shutil.copytree(bundle.root, tmp_path / "bundle"))
    weights = QuantizedStore(copy).path("unet").with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleCorrupt, match="differs from its record"):
        open_session(copy, "unet", "openvino", SessionOptions(precision="int8"))


@pytest.mark.usefixtures("quantized_before")
def test_pictures_that_do_not_hold_up_are_not_kept(tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))
    with pytest.raises(ExportError, match=r"dB from float32's, less than 200; it is not kept: "):
        quantize(request(bundle, minimum_picture_db=200.0, calibration_runs=1, judging_runs=1))
    assert list(QuantizedStore(bundle).path("unet").parent.iterdir()) == []
    with pytest.raises(ComponentMissing, match=r"make it with `lightfill quantize .*bundle`, or"):
        OneResident(bundle, "openvino", SessionOptions(precision="int8")).session("unet")


def test_a_place_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))
    QuantizedStore(bundle).path("unet").parent.write_text("a file in its place")
    stages: list[str] = []
    with pytest.raises(ExportError, match=r"int8 cannot be written \(.*\); quantize a copy of the"):
        quantize(request(bundle), stages.append)
    assert stages == []


def test_memory_that_may_not_do_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.open(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))
    monkeypatch.setattr(memory, "WORTH_ASKING", 0)
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**6)

    def stopped(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(request(bundle), stopped)
    assert "quantizing unet takes about 0 GB of memory" in caplog.text
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**12)
    caplog.clear()
    with pytest.raises(KeyboardInterrupt):
        quantize(request(bundle), stopped)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (100, 64)}, "image_size: take multiples of 32"),
        ({"size": (64, 4096)}, "image_size: take multiples of 32"),
        ({"calibration_runs": 0}, "calibration_runs: must be from 1 to 64, got 0"),
        ({"judging_runs": 65}, "judging_runs: must be from 1 to 64, got 65"),
        ({"calibration_runs": 1.5}, "calibration_runs: must be a whole number"),
        ({"minimum_picture_db": float("nan")}, "minimum_psnr: must be a number"),
    ],
)
def test_wrong_requests_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        request(Bundle.open(), **changes)


def test_without_nncf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lightfill.export.quantization", raising=False)
    monkeypatch.delattr("lightfill.export.quantization", raising=False)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"needs NNCF .*`pip install 'lightfill\[quantize\]'`"):
        quantize(request(Bundle.open()))


def test_a_graph_that_cannot_be_quantized_is_one_sentence(tmp_path: Path) -> None:
    from lightfill.export.quantization import write_quantized

    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/float32.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"^unet cannot be quantized: .*; report this") as caught:
        write_quantized(tmp_path / "unet/float32.onnx", [], tmp_path / "out.xml")
    assert "\n" not in str(caught.value)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lightfill", "quantize", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capfd.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


@pytest.mark.usefixtures("quantized_before")
def test_command_prints_records(command: Callable[..., Any], tmp_path: Path) -> None:
    root = shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")
    small = ("--image-size", "64x64", "--calibration-runs", 3, "--judging-runs", 1, "--steps", 2)
    status, out, err = command(root, *small, "--json")
    assert status == 0, err
    record = json.loads(out)["unet"]
    assert record["size"] == [64, 64]
    assert record == json.loads(
        QuantizedStore(Bundle.open(root)).path("unet").with_suffix(".json").read_text()
    )
    status, out, err = command(root, *small)
    assert (status, out.split()[0]) == (0, "int8"), err
    assert "MB" in out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--steps", "four"], 2, "steps: 'four' is no list of numbers"),
        (["--steps", "3"], 1, "no UNet for 3 steps"),
        (["--image-size", "source"], 2, "image_size: 'source' has no size of its own"),
        (["--image-size", "100x100"], 2, "image_size: take multiples of 32"),
        (["--calibration-runs", "0"], 2, "calibration_runs: must be from 1 to 64"),
    ],
)
def test_wrong_arguments_end_with_a_sentence(
    command: Callable[..., Any], arguments: list[str], status: int, words: str
) -> None:
    ended, _, err = command(DEMO_BUNDLE, *arguments)
    assert (ended, words in err) == (status, True), err
