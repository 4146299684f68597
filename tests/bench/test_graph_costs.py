"""Counted operations and bytes: against hand-made graphs, known models, and what really runs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lightfill.bench import graph_costs
from lightfill.bench.graph_costs import Cost
from lightfill.engine import components
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import ExportError, LightfillError
from lightfill.engine.request import IMAGE_SIZES
from lightfill.engine.sessions.base import sizes_of
from lightfill.export import graph_cost

SIZES = {"batch": 2, "height": 8, "width": 12}


def model(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], opset: int = 20
) -> onnx.ModelProto:
    """A VAE decoder by name only: latents (batch, 4, height, width) in, images out."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["b", 4, "h", "w"])],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def cost(*nodes: onnx.NodeProto, opset: int = 20, **weights: np.ndarray) -> graph_cost.GraphCost:
    return graph_cost.count_model(model(list(nodes), weights, opset), "vae_decoder", SIZES)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution(groups: int) -> None:
    node = helper.make_node(
        "Conv", ["latents", "w"], ["images"], group=groups, strides=[2, 2], pads=[1, 1, 1, 1]
    )
    found = cost(node, w=zeros(6, 4 // groups, 3, 3))
    out = 2 * 6 * 4 * 6
    assert found.flops == 2 * out * (4 // groups) * 9
    assert found.weight_bytes == 4 * 6 * (4 // groups) * 9
    (conv,) = found.nodes
    assert conv.bytes == 4 * (2 * 4 * 8 * 12 + out) + found.weight_bytes
    assert found.io_bytes == 4 * (2 * 4 * 8 * 12 + out)


def test_matrix_products() -> None:
    found = cost(helper.make_node("MatMul", ["latents", "w"], ["images"]), w=zeros(12, 5))
    assert found.flops == 2 * (2 * 4 * 8) * 12 * 5
    shape = np.array([64, 12], np.int64)
    found = cost(
        helper.make_node("Reshape", ["latents", "shape"], ["rows"]),
        helper.make_node("Gemm", ["rows", "w", "bias"], ["images"], transB=1),
        shape=shape,
        w=zeros(5, 12),
        bias=zeros(5),
    )
    assert found.flops == 2 * 64 * 12 * 5
    assert [(n.operator, n.bytes) for n in found.nodes if n.operator == "Reshape"] == [
        ("Reshape", 0)
    ]


@pytest.mark.parametrize("stacked", [False, True], ids=["4 dimensions", "3 dimensions"])
def test_attention_counts_both_products(stacked: bool) -> None:
    """2 pictures, 4 heads, 8 queries of width 12, against 5 keys and values of width 12."""
    key = zeros(2, 4, 5, 12)
    if not stacked:
        node = helper.make_node("Attention", ["latents", "k", "v"], ["images"])
        found = cost(node, opset=23, k=key, v=key)
    else:
        found = cost(
            helper.make_node("Transpose", ["latents"], ["t"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["t", "shape"], ["q"]),
            helper.make_node(
                "Attention", ["q", "k", "v"], ["images"], q_num_heads=4, kv_num_heads=4
            ),
            opset=23,
            shape=np.array([2, 8, 48], np.int64),
            k=zeros(2, 5, 48),
            v=zeros(2, 5, 48),
        )
    assert found.flops == 2 * (2 * 4 * 8 * 5 * 12) * 2


def test_elementwise_operators_cost_bytes_and_no_operations() -> None:
    found = cost(helper.make_node("Mul", ["latents", "latents"], ["images"]))
    assert found.flops == 0
    assert sum(node.bytes for node in found.nodes) == 3 * 4 * 2 * 4 * 8 * 12


def test_what_touches_weights_alone_is_done_when_loading() -> None:
    """A float16 weight that is cast first is read as float32, as ONNX Runtime folds it."""
    found = cost(
        helper.make_node("Cast", ["stored"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["latents", "w"], ["images"]),
        stored=np.zeros((12, 5), np.float16),
    )
    assert [node.operator for node in found.nodes] == ["MatMul"]
    assert found.weight_bytes == 4 * 12 * 5


@pytest.mark.parametrize("operator", ["ConvTranspose", "Loop"])
def test_what_cannot_be_counted_is_refused(operator: str) -> None:
    with pytest.raises(ExportError, match=f"the cost of {operator} is not known"):
        cost(helper.make_node(operator, ["latents"], ["images"]))


def test_a_shape_that_depends_on_numbers_is_refused() -> None:
    with pytest.raises(ExportError, match="is not known"):
        cost(
            helper.make_node("NonZero", ["latents"], ["places"]),
            helper.make_node("Mul", ["places", "places"], ["images"]),
        )


@pytest.mark.parametrize("name", ["text_encoder_2", "unet", "vae_encoder", "vae_decoder"])
def test_every_shape_is_the_one_onnx_runtime_makes(name: str, tmp_path: Path) -> None:
    """Of the embedded model: all tensors of a run at an odd size, against the inferred ones."""
    bundle = Bundle.open()
    role, path = bundle.component(name).role, bundle.graph(name, "float32")
    loaded = onnx.load(path)
    counting = graph_cost._Counting(loaded, role, SIZES, path.parent)
    names = []
    for node in loaded.graph.node:
        if counting.cost(node) is not None:
            names += [output for output in node.output if output]
    del loaded.graph.output[:]
    loaded.graph.output.extend(onnx.ValueInfoProto(name=each) for each in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(loaded.SerializeToString(), options)
    results = session.run(names, feed_of(session, role))
    assert len(results) > 40
    for each, result in zip(names, results, strict=True):
        assert counting.shape(each) == result.shape, each
        assert counting.bytes_of(each) == result.nbytes, each


def feed_of(session: onnxruntime.InferenceSession, role: Any) -> dict[str, np.ndarray]:
    contract = components.CONTRACTS[role].inputs
    feed = {}
    for value in session.get_inputs():
        shape = []
        for given, wanted in zip(value.shape, contract[value.name].shape, strict=True):
            if isinstance(wanted, str):
                factor, symbol = components.symbol_of(wanted)
                shape.append(factor * SIZES[symbol])
            else:
                shape.append(given)
        feed[value.name] = np.ones(shape, np.int64 if "int64" in value.type else np.float32)
    assert sizes_of(contract, feed).items() <= SIZES.items()
    return feed


def test_a_bundles_stages_grow_as_they_should() -> None:
    bundle = Bundle.open()
    small = graph_costs.of_bundle(bundle, "float32", (64, 64), 4, 1)
    wide = graph_costs.of_bundle(bundle, "float32", (128, 64), 4, 1)
    two = graph_costs.of_bundle(bundle, "float32", (64, 64), 4, 2)
    assert list(small) == ["text", "vae_encode", "unet", "vae_decode"]
    assert wide["text"] == small["text"] == two["text"]
    assert two["vae_encode"] == small["vae_encode"]
    assert two["unet"].weight_bytes == small["unet"].weight_bytes
    for stage in ("unet", "vae_decode"):
        assert two[stage].flops == pytest.approx(2 * small[stage].flops, rel=0.02)
        assert 1.8 * small[stage].flops < wide[stage].flops < 4 * small[stage].flops
    odd = graph_costs.of_bundle(bundle, "float32", (70, 40), 4, 1)
    assert odd == graph_costs.of_bundle(bundle, "float32", (96, 64), 4, 1)  # as it is padded


def test_float16_moves_half_the_bytes_for_the_same_operations() -> None:
    bundle = Bundle.open()
    single = graph_costs.of_bundle(bundle, "float32", (64, 64), 4, 1)
    half = graph_costs.of_bundle(bundle, "float16", (64, 64), 4, 1)
    for stage, found in half.items():
        assert found.flops == single[stage].flops
        assert found.least_bytes == pytest.approx(single[stage].least_bytes / 2, rel=0.05)


def test_a_missing_counter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightfill.export.graph_cost", None)
    with pytest.raises(LightfillError, match=r"pip install 'lightfill\[bench\]'"):
        graph_costs.of_bundle(Bundle.open(), "float32", (64, 64), 4, 1)


def test_sdxls_table_has_every_preset_and_the_unet_that_is_known() -> None:
    for size in IMAGE_SIZES.values():
        assert set(graph_costs.of_sdxl(size)) == set(graph_costs.COMPONENTS)
    unet = graph_costs.of_sdxl((1024, 1024))["unet"]
    assert unet.flops / 1e12 == pytest.approx(6.76, abs=0.005)  # published: 6.76 TFLOP a forward
    assert unet.weight_bytes / 2 / 1e9 == pytest.approx(2.567, abs=0.001)  # parameters
    with pytest.raises(LightfillError, match="640x640 are not in the table"):
        graph_costs.of_sdxl((640, 640))


def test_costs_add_up() -> None:
    first, second = Cost(((10, 4, 2), (0, 3, 1)), 7, 5), Cost(((1, 1, 1),), 1, 1)
    both = Cost.sum([first, second])
    assert (both.flops, both.bytes, both.least_bytes) == (21, 12, 14)
    assert math.isclose(first.flops + second.flops, both.flops)
