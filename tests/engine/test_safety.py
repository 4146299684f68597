"""The safety checker of a bundle: run when there is one, skipped only when asked to."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from lightfill import Inpainter
from lightfill.engine.bundle import DEMO_BUNDLE
from lightfill.engine.errors import ComponentMissing
from lightfill.engine.safety import clip_pixels

PHOTO = np.full((64, 64, 3), 90, np.uint8)
MASK = np.full((64, 64), 255, np.uint8)


def brightness_checker(threshold: float) -> onnx.ModelProto:
    """A checker that flags pictures whose mean normalised value exceeds `threshold`."""
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values", "axes"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "threshold"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "checker",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("threshold", TensorProto.FLOAT, [1], [threshold]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def bundle_with_checker(path: Path, threshold: float) -> Path:
    """A copy of the embedded bundle with a safety checker added to files and manifest."""
    shutil.copytree(DEMO_BUNDLE, path)
    directory = path / "safety_checker"
    directory.mkdir()
    onnx.save(brightness_checker(threshold), directory / "float32.onnx")
    (directory / "weights.bin").write_bytes(b"")
    manifest = json.loads((path / "lightfill.json").read_text())
    manifest["components"]["safety_checker"] = {
        "role": "safety_checker",
        "graphs": {"float32": "safety_checker/float32.onnx"},
        "weights": "safety_checker/weights.bin",
    }
    for file in directory.iterdir():
        data = file.read_bytes()
        manifest["files"][f"safety_checker/{file.name}"] = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    (path / "lightfill.json").write_text(json.dumps(manifest))
    return path


def paint(inpainter: Inpainter, checker: bool | None):
    return inpainter(
        PHOTO, MASK, "a green ball", image_size="source", seed=1, num_images=2,
        enable_safety_checker=checker,
    )  # fmt: skip


def test_flagged_pictures_come_back_black_and_reported(tmp_path: Path) -> None:
    with Inpainter.open(bundle_with_checker(tmp_path / "b", threshold=-100)) as inpainter:
        result = paint(inpainter, None)
        assert result.safety_checked
        assert result.has_nsfw_concepts == (True, True)
        for picture in result.images:
            assert picture.size == (64, 64)
            assert not np.asarray(picture).any()
        skipped = paint(inpainter, checker=False)
        assert not skipped.safety_checked
        assert skipped.has_nsfw_concepts == (False, False)
        assert np.asarray(skipped.image).any()


def test_clean_pictures_pass_unchanged(tmp_path: Path) -> None:
    with Inpainter.open(bundle_with_checker(tmp_path / "b", threshold=100)) as inpainter:
        checked, skipped = paint(inpainter, checker=True), paint(inpainter, checker=False)
    assert checked.safety_checked
    assert checked.has_nsfw_concepts == (False, False)
    assert np.array_equal(np.asarray(checked.image), np.asarray(skipped.image))


def test_without_a_checker_the_result_says_so_and_demanding_one_raises() -> None:
    with Inpainter.open() as inpainter:
        assert not paint(inpainter, None).safety_checked
        with pytest.raises(ComponentMissing, match="safety_checker"):
            paint(inpainter, checker=True)


@pytest.mark.parametrize("shape", [(64, 64, 3), (300, 500, 3), (700, 224, 3), (225, 224, 3)])
def test_clip_preprocessing_equals_transformers(shape: tuple[int, ...]) -> None:
    from transformers import CLIPImageProcessor

    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = CLIPImageProcessor()(pixels, return_tensors="np")["pixel_values"]
    ours = clip_pixels(Image.fromarray(pixels))
    assert ours.shape == expected.shape == (1, 3, 224, 224)
    assert np.abs(ours - expected).max() <= 4 / 255 / 0.26
