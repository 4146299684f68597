"""Weights are stored once, as float16 where that is exact, and compute as they did before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from random_checkpoint import DEMO_CHECKPOINT

from lightfill.engine.bundle import Bundle
from lightfill.export.weights import SharedWeights
from lightfill.export.wrappers import WRAPPERS

RNG = np.random.default_rng(5)
EXACT = RNG.normal(size=(24, 24)).astype(np.float16).astype(np.float32)
EXACT[0, :6] = [0.0, -0.0, 65504.0, -65504.0, 2.0**-24, 2.0**-14]  # float16's own extremes
INEXACT = EXACT.copy()
INEXACT[3, 4] = np.float32(1 / 3)
TOO_LARGE = EXACT.copy()
TOO_LARGE[3, 4] = 70000.0
TOO_SMALL = EXACT.copy()
TOO_SMALL[3, 4] = 2.0**-25
FACTORS = {"inexact": INEXACT, "too large": TOO_LARGE, "too small": TOO_SMALL}


def model(**weights: NDArray[Any]) -> ir.Model:
    """y = x @ w1 @ w2 ... for square weights, plus the sum of any other."""
    nodes, last = [], "x"
    for name, weight in weights.items():
        kind = "MatMul" if weight.ndim == 2 else "Add"
        nodes.append(helper.make_node(kind, [last, name], [f"{name}.out"]))
        last = f"{name}.out"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 24])],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    opset = helper.make_opsetid("", 20)
    return ir.from_proto(helper.make_model(graph, opset_imports=[opset], ir_version=10))


def save(directory: Path, *models: ir.Model) -> list[Path]:
    with SharedWeights(directory / "weights.bin") as weights:
        return [weights.save(graph, f"{i}.onnx") for i, graph in enumerate(models)]


def stored(path: Path) -> Mapping[str, TensorProto]:
    graph = onnx.load(path, load_external_data=False).graph
    return {tensor.name: tensor for tensor in graph.initializer}


def place(tensor: TensorProto) -> tuple[int, int]:
    """Offset and length in the weights file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    assert entries["location"] == "weights.bin"
    return int(entries["offset"]), int(entries["length"])


def run(path_or_bytes: Path | bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(path_or_bytes, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return result


def test_weights_exact_in_float16_are_stored_so_and_cast_back(tmp_path: Path) -> None:
    (path,) = save(tmp_path, model(w=EXACT))
    tensor = stored(path)["w"]
    assert tensor.data_type == TensorProto.FLOAT16
    assert place(tensor) == (0, 2 * EXACT.size)
    assert (tmp_path / "weights.bin").read_bytes() == EXACT.astype(np.float16).tobytes()
    casts = [node for node in onnx.load(path).graph.node if node.op_type == "Cast"]
    assert [list(cast.input) for cast in casts] == [["w"]]


@pytest.mark.parametrize("weight", FACTORS.values(), ids=FACTORS)
def test_one_value_beyond_float16_keeps_the_whole_tensor_float32(
    tmp_path: Path, weight: NDArray[np.float32]
) -> None:
    (path,) = save(tmp_path, model(w=weight))
    assert stored(path)["w"].data_type == TensorProto.FLOAT
    assert (tmp_path / "weights.bin").read_bytes() == weight.tobytes()
    assert not [node for node in onnx.load(path).graph.node if node.op_type == "Cast"]


def test_outputs_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    weights = {"a": EXACT, "b": INEXACT, "c": EXACT.T.copy(), "d": EXACT[5], "e": INEXACT[3]}
    before = ir.to_proto(model(**weights)).SerializeToString()
    (path,) = save(tmp_path, model(**weights))
    x = RNG.normal(size=(2, 24)).astype(np.float32)
    np.testing.assert_array_equal(run(path, x), run(before, x))


def test_equal_content_is_written_once_across_names_and_graphs(tmp_path: Path) -> None:
    first, second = save(tmp_path, model(a=EXACT, b=EXACT), model(c=EXACT, d=INEXACT))
    places = {place(tensor) for path in (first, second) for tensor in stored(path).values()}
    assert len(places) == 2
    assert (tmp_path / "weights.bin").stat().st_size == 2 * EXACT.size + 4 * INEXACT.size


@pytest.mark.slow  # exports a component twice
def test_float16_and_float32_graphs_share_every_weight(text_encoder_2: Path) -> None:
    float32, float16 = (
        {place(tensor) for tensor in stored(text_encoder_2 / name).values() if tensor.external_data}
        for name in ("float32.onnx", "float16.onnx")
    )
    assert len(float32 & float16) > 10
    only_one = [length for _, length in float32 ^ float16]
    assert sorted(only_one) == [77 * 77 * 2, 77 * 77 * 4]  # the causal mask: each type's own lowest


def test_small_tensors_stay_in_the_graph_and_others_are_aligned(tmp_path: Path) -> None:
    weights = {"odd": INEXACT[:23, :23].copy(), "w": INEXACT, "bias": INEXACT[3]}
    initializers = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    page = RNG.normal(size=1 << 18).astype(np.float32)  # 1 MB: worth mapping page by page
    initializers.append(numpy_helper.from_array(page, "page"))
    nodes = [
        helper.make_node("Identity", [weight.name], [f"{weight.name}.out"])
        for weight in initializers
    ]
    graph = helper.make_graph(nodes, "weights", [], [], initializers)
    (path,) = save(tmp_path, ir.from_proto(helper.make_model(graph, ir_version=10)))
    tensors = stored(path)
    assert not tensors["bias"].external_data
    assert [place(tensors[name])[0] for name in ("odd", "w")] == [0, 2176]  # 2116, up to 64s
    assert place(tensors["page"])[0] % 4096 == 0


@pytest.mark.parametrize("role", WRAPPERS)
def test_the_demo_keeps_two_bytes_a_parameter_for_both_arithmetics(role: str) -> None:
    bundle = Bundle.open()
    component = bundle.component(role)
    places = {
        place(tensor)
        for graph in component.graphs.values()
        for tensor in stored(bundle.root / graph).values()
        if tensor.external_data
    }
    size = (bundle.root / component.weights).stat().st_size
    assert sum(length for _, length in places) <= size
    causal_masks = 77 * 77 * (2 + 4) if role.startswith("text_encoder") else 0
    assert size <= 2 * parameters(role) + causal_masks


def parameters(role: str) -> int:
    """Parameters of a component by the checkpoint's own headers, token tables left out."""
    folder, prefix = {
        "vae_encoder": ("vae", ("encoder.", "quant_conv.")),
        "vae_decoder": ("vae", ("decoder.", "post_quant_conv.")),
    }.get(role, (role, ""))
    (path,) = (DEMO_CHECKPOINT / folder).glob("*.safetensors")
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return sum(
        int(np.prod(entry["shape"]))
        for name, entry in header.items()
        if name.startswith(prefix) and name != "__metadata__" and "token_embedding" not in name
    )
