"""Copies of the embedded bundle with one more component, and a picture the classifier flags."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image
from tokenizers import Tokenizer

from lightfill.engine.bundle import DEMO_BUNDLE


def bundle_with(
    path: Path, role: str, model: onnx.ModelProto, tokenizer: Tokenizer | None = None
) -> Path:
    """The embedded bundle, and `model` as its component `role`, in files and manifest."""
    shutil.copytree(DEMO_BUNDLE, path)
    folder = path / role
    folder.mkdir()
    onnx.save(model, folder / "float32.onnx")
    (folder / "weights.bin").write_bytes(b"")
    manifest = json.loads((path / "lightfill.json").read_text())
    manifest["components"][role] = {
        "role": role,
        "graphs": {"float32": f"{role}/float32.onnx"},
        "weights": f"{role}/weights.bin",
    }
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
        end = tokenizer.token_to_id("<end>")
        manifest["tokenizers"][role] = {
            "file": f"{role}/tokenizer.json",
            "special_tokens": ["<end>"],
            **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
        }
    manifest["files"] |= {f"{role}/{file.name}": _entry(file) for file in folder.iterdir()}
    (path / "lightfill.json").write_text(json.dumps(manifest))
    return path


def brightness_checker(threshold: float) -> onnx.ModelProto:
    """A safety checker that flags pictures whose mean normalised value exceeds `threshold`."""
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


def summing_language_model(table: np.ndarray) -> onnx.ModelProto:
    """A prompt expander whose next logits are row (sum of all tokens so far) % rows of `table`.

    Its cache holds the tokens themselves: a cache that is dropped, doubled or out of order shows.
    """
    rows, width = table.shape
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["now"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["now", "key_axes"], ["key"]),
        helper.make_node("Concat", ["key", "key"], ["keys_values"], axis=1),
        helper.make_node("Concat", ["past", "keys_values"], ["present"], axis=4),
        helper.make_node("ReduceSum", ["present", "sum_axes"], ["doubled"], keepdims=0),
        helper.make_node("Mul", ["doubled", "half"], ["total"]),
        helper.make_node("Cast", ["total"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mod", ["whole", "rows"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["logits"], axis=0),
    ]
    cache = [1, 2, "batch", 1, "past", 1]
    graph = helper.make_graph(
        nodes,
        "language_model",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("past", TensorProto.FLOAT, cache),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", width]),
            helper.make_tensor_value_info("present", TensorProto.FLOAT, [*cache[:4], "present", 1]),
        ],
        [
            helper.make_tensor("key_axes", TensorProto.INT64, [4], [0, 1, 3, 5]),
            helper.make_tensor("sum_axes", TensorProto.INT64, [5], [0, 1, 3, 4, 5]),
            helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("rows", TensorProto.INT64, [], [rows]),
            onnx.numpy_helper.from_array(table.astype(np.float32), "table"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def flagged_picture(size: tuple[int, int] = (256, 256)) -> Image.Image:
    """Soft ellipses in skin tones, which open_nsfw takes for what they are not: it scores 0.99."""
    random = np.random.default_rng(21)
    y, x = np.mgrid[0:256, 0:256] / 256
    picture = np.full((256, 256, 3), random.random(3) * 255)
    for _ in range(10):
        left, top, width, height, turn = random.random(5)
        skin = np.array([224, 168, 138]) + random.normal(0, 15, 3)
        cosine, sine = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
        across, down = x - left, y - top
        along = (cosine * across + sine * down) / (0.02 + 0.6 * width)
        beside = (cosine * down - sine * across) / (0.02 + 0.6 * height)
        radius = along**2 + beside**2
        inside = (1 / (1 + np.exp(np.clip((radius - 1) * 12, -50, 50))))[..., None]
        shade = (1 - 0.35 * np.clip(radius, 0, 1))[..., None]
        picture = picture * (1 - inside) + inside * skin * shade
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).resize(size)


def _entry(file: Path) -> Mapping[str, Any]:
    data = file.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
