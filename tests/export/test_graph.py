"""Exported graphs: dynamic in every promised size, named as the contract says, strongly typed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import run_directory
import tiny_components
from onnx import NodeProto, TensorProto, ValueInfoProto

from lightfill.engine.bundle import Bundle
from lightfill.engine.components import CONTRACTS, Dimension, Tensor, symbol_of
from lightfill.engine.manifest import Arithmetic
from lightfill.engine.sessions import Session, open_session

ROLES = ("text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder")
OPTIONAL = ("safety_checker", "prompt_expander")
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


@pytest.fixture(scope="module")
def optional(
    tmp_path_factory: pytest.TempPathFactory, private_cache: None
) -> Mapping[str, Mapping[Arithmetic, Path]]:
    base = run_directory.directory_of(tmp_path_factory)
    return {role: tiny_components.graphs_in(base, role) for role in OPTIONAL}


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


# slow: traces two components twice
@pytest.mark.slow
@pytest.mark.parametrize("role", OPTIONAL)
def test_optional_components_follow_the_contract(
    optional: Mapping[str, Mapping[Arithmetic, Path]], role: str
) -> None:
    for arithmetic, path in optional[role].items():
        graph = onnx.load(path, load_external_data=False).graph
        check_tensors(graph.input, CONTRACTS[role].inputs, arithmetic)
        check_tensors(graph.output, CONTRACTS[role].outputs, arithmetic)


# slow: traces two components twice
@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ["float32", "float16"])
def test_the_expander_begins_with_nothing_before_and_any_number_of_tokens(
    optional: Mapping[str, Mapping[Arithmetic, Path]], arithmetic: Arithmetic
) -> None:
    path = optional["prompt_expander"][arithmetic]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    layers, _, _, heads, _, width = session.get_inputs()[1].shape
    for batch, portions in ((1, (1, 1, 30)), (3, (20, 1))):
        present = np.zeros((layers, 2, batch, heads, 0, width), arithmetic)
        for tokens in portions:
            before = present.shape[-2]
            ids = np.ones((batch, tokens), np.int64)
            logits, present = session.run(None, {"input_ids": ids, "past": present})
            assert present.shape == (layers, 2, batch, heads, before + tokens, width)
            assert np.isfinite(logits).all()


@pytest.mark.parametrize("role", ROLES)
def test_float16_graphs_multiply_and_normalise_in_float16(bundle: Bundle, role: str) -> None:
    model = graph_of(bundle, role, "float16")
    types = element_types(model)
    heavy = [node for node in model.graph.node if node.op_type in HEAVY]
    assert heavy
    assert all(float_inputs(node, types) == {TensorProto.FLOAT16} for node in heavy)
    if role != "unet":  # which computes sinusoids in float32: test_lint.py
        assert TensorProto.FLOAT not in {types[name] for n in model.graph.node for name in n.output}


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
            graph = model.graph
            values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
            assert not any(
                each.metadata_props or each.doc_string
                for each in (model, graph, *graph.node, *values)
            )
            content = (bundle.root / path).read_bytes()
            assert not any(note in content for note in (b".py", b"site-packages", b"torch.nn"))
            assert all(
                Path(entry.value).name == entry.value
                for tensor in model.graph.initializer
                for entry in tensor.external_data
                if entry.key == "location"
            )
