"""Exported graphs: dynamic in every promised size, named as the contract says, strongly typed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, ValueInfoProto

from lightfill.engine.bundle import Bundle
from lightfill.engine.components import CONTRACTS, Dimension, Tensor, symbol_of
from lightfill.engine.manifest import Arithmetic
from lightfill.engine.sessions import Session, open_session
from lightfill.export.wrappers import WRAPPERS

ROLES = tuple(WRAPPERS)
SIZES = (
    {"batch": 1, "height": 8, "width": 8},
    {"batch": 3, "height": 12, "width": 8},
    {"batch": 8, "height": 8, "width": 20},
    {"batch": 1, "height": 64, "width": 8},
    {"batch": 2, "height": 28, "width": 36},
)
"""Sides in latent cells, multiples of 4 (32 pixels)."""

ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
}
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
HEAVY = {"Conv", "MatMul", "Gemm", "InstanceNormalization", "LayerNormalization", "Softmax"}
SINUSOIDS = {"Sin", "Cos", "Mul", "Div", "Concat", "Slice", "Reshape", "Unsqueeze", "Expand"}
"""What a float16 UNet computes in float32: the embeddings of timestep and sizes, as diffusers."""


def graph_of(bundle: Bundle, role: str, arithmetic: Arithmetic) -> onnx.ModelProto:
    return onnx.load(bundle.graph(role, arithmetic), load_external_data=False)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, inferred afresh by onnx (which also checks every operator)."""
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    produced = {name for node in graph.node for name in node.output if name}
    assert produced <= types.keys(), "onnx could not infer every type"
    return types


def float_inputs(node: NodeProto, types: Mapping[str, int]) -> set[int]:
    """The floating types a node reads, without Resize's scales, which are float32 by definition."""
    names = node.input[:1] if node.op_type == "Resize" else node.input
    return {types[name] for name in names if name} & FLOATS


def untyped_nodes(model: onnx.ModelProto) -> list[str]:
    """Nodes a strongly typed float16 build refuses or runs in float32 without saying so."""
    types = element_types(model)
    found = []
    for node in model.graph.node:
        reads = float_inputs(node, types)
        light = node.op_type in SINUSOIDS or node.op_type in {"Cast", "Shape"}
        if len(reads) > 1 or (reads == {TensorProto.FLOAT} and not light):
            found.append(f"{node.op_type} {node.name} reads {sorted(reads)}")
    return found


def feed_for(session: Session, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    contract = CONTRACTS[session.component]
    feed = {}
    for name, tensor in contract.inputs.items():
        found = session.inputs[name].shape
        shape = [size_of(wanted, sizes) or found[axis] for axis, wanted in enumerate(tensor.shape)]
        values = rng.integers(1, 77, shape) if tensor.element == "int64" else rng.normal(size=shape)
        feed[name] = values.astype(session.inputs[name].dtype)
    return feed


def size_of(dimension: Dimension, sizes: Mapping[str, int]) -> int | None:
    if not isinstance(dimension, str):
        return dimension
    factor, symbol = symbol_of(dimension)
    return factor * sizes[symbol]


@pytest.mark.parametrize("role", ROLES)
def test_every_size_and_batch_runs(bundle: Bundle, role: str) -> None:
    with open_session(bundle, role) as session:
        for sizes in SIZES:
            results = session.run(feed_for(session, sizes))
            for name, tensor in CONTRACTS[role].outputs.items():
                assert len(results[name].shape) == len(tensor.shape)
                for found, wanted in zip(results[name].shape, tensor.shape, strict=True):
                    assert found == (size_of(wanted, sizes) or found), (name, sizes)


@pytest.mark.parametrize("role", ROLES)
def test_pictures_of_a_batch_do_not_touch_each_other(bundle: Bundle, role: str) -> None:
    with open_session(bundle, role) as session:
        feed = feed_for(session, {"batch": 3, "height": 8, "width": 12})
        together = session.run(feed)
        for i in range(3):
            single = {k: v[i : i + 1] if len(v) == 3 else v for k, v in feed.items()}
            for name, alone in session.run(single).items():
                bound = 1e-5 * np.abs(alone).max()
                np.testing.assert_allclose(together[name][i : i + 1], alone, rtol=0, atol=bound)


@pytest.mark.parametrize("role", ROLES)
def test_names_types_and_shapes_follow_the_contract(bundle: Bundle, role: str) -> None:
    for arithmetic in bundle.component(role).graphs:
        graph = graph_of(bundle, role, arithmetic).graph
        check_tensors(graph.input, CONTRACTS[role].inputs, arithmetic)
        check_tensors(graph.output, CONTRACTS[role].outputs, arithmetic)


def check_tensors(
    values: Sequence[ValueInfoProto], tensors: Mapping[str, Tensor], arithmetic: Arithmetic
) -> None:
    assert [value.name for value in values] == list(tensors)
    for value, tensor in zip(values, tensors.values(), strict=True):
        kind = arithmetic if tensor.element == "activation" else tensor.element
        assert value.type.tensor_type.elem_type == ELEMENT_TYPES[kind], value.name
        dimensions = value.type.tensor_type.shape.dim
        assert len(dimensions) == len(tensor.shape)
        for found, wanted in zip(dimensions, tensor.shape, strict=True):
            is_free = found.HasField("dim_param")
            assert is_free == isinstance(wanted, str), value.name
            assert is_free or found.dim_value == (wanted or found.dim_value)


@pytest.mark.parametrize("role", ROLES)
def test_the_demo_s_float16_graphs_are_strongly_typed(role: str) -> None:
    model = graph_of(Bundle.open(), role, "float16")
    assert untyped_nodes(model) == []
    types = element_types(model)
    heavy = [node for node in model.graph.node if node.op_type in HEAVY]
    assert heavy
    assert all(float_inputs(node, types) == {TensorProto.FLOAT16} for node in heavy)
    if role != "unet":
        assert TensorProto.FLOAT not in {types[name] for n in model.graph.node for name in n.output}


# slow: exports a component twice
@pytest.mark.slow
def test_the_exporter_writes_strongly_typed_float16(text_encoder_2: Path) -> None:
    model = onnx.load(text_encoder_2 / "float16.onnx", load_external_data=False)
    assert untyped_nodes(model) == []


def test_the_lint_sees_float32_arithmetic_and_mixed_operands() -> None:
    float32 = graph_of(Bundle.open(), "vae_decoder", "float32")
    assert any(found.startswith("Conv") for found in untyped_nodes(float32))

    def tensor(name: str, kind: int) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, kind, [1])

    inputs = [tensor("x", TensorProto.FLOAT16), tensor("y", TensorProto.FLOAT)]
    mixed = onnx.helper.make_graph(
        [onnx.helper.make_node("Pow", ["x", "y"], ["z"], name="mixed")],
        "mixed",
        inputs,
        [tensor("z", TensorProto.FLOAT16)],
    )
    assert untyped_nodes(onnx.helper.make_model(mixed)) == ["Pow mixed reads [1, 10]"]


@pytest.mark.parametrize("role", ROLES)
def test_float32_graphs_use_float16_for_storage_only(bundle: Bundle, role: str) -> None:
    model = graph_of(bundle, role, "float32")
    types = element_types(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    casts = 0
    for node in model.graph.node:
        halves = [name for name in node.input if name and types[name] == TensorProto.FLOAT16]
        casts += bool(halves)
        assert not halves or (node.op_type == "Cast" and set(halves) <= stored), node.name
        assert TensorProto.FLOAT16 not in {types[name] for name in node.output if name}
    assert casts


def test_a_graph_names_nothing_of_the_machine_that_made_it(bundle: Bundle) -> None:
    for component in bundle.manifest.components.values():
        for path in component.graphs.values():
            model = onnx.load(bundle.root / path, load_external_data=False)
            assert not model.metadata_props
            assert not model.graph.metadata_props
            assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
            assert all(
                Path(entry.value).name == entry.value
                for tensor in model.graph.initializer
                for entry in tensor.external_data
                if entry.key == "location"
            )
