"""Cleaning a traced graph leaves its results, and nothing that a runtime would have to fold."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny_components
from numpy.typing import NDArray

from lightfill.engine.bundle import Bundle
from lightfill.export.graph_cache import traced
from lightfill.export.graph_cleaning import TRANSPOSED, clean

ROLES = ("text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder")
RNG = np.random.default_rng(3)


def cleaned(nodes: str, weights: str = "", output: str = "float[N,4] y") -> ir.Model:
    """A graph of x and weights, written in ONNX's text format, after cleaning."""
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
        traced (float[N,4] x{weights and ", " + weights}) => ({output}) {{ {nodes} }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    clean(model, protected={"x"})
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def weight(model: ir.Model, name: str) -> ir.Value:
    (found,) = [value for value in model.graph.inputs if value.name == name]
    return found


def run(model: ir.Model, **feed: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a cleaned graph, weights arranged as it wants them."""
    arranged = {}
    for value in model.graph.inputs:
        array = feed[str(value.name)]
        if axes := value.metadata_props.get(TRANSPOSED):
            array = array.transpose([int(axis) for axis in axes.split(",")])
        shape = value.shape.numpy() if value.name != "x" and value.shape else array.shape
        arranged[value.name] = np.ascontiguousarray(array.reshape(shape))
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: NDArray[np.float32] = session.run(None, arranged)[0]
    return result


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


def test_a_weight_s_only_transpose_becomes_its_layout() -> None:
    model = cleaned("t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)", "float[6,4] w", "float[N,6] y")
    assert operators(model) == ["MatMul"]
    assert weight(model, "w").metadata_props[TRANSPOSED] == "1,0"
    assert weight(model, "w").shape == [4, 6]
    x, w = normal(3, 4), normal(6, 4)
    np.testing.assert_allclose(run(model, x=x, w=w), x @ w.T, rtol=1e-5)


def test_users_that_want_the_same_transpose_share_it() -> None:
    model = cleaned(
        "a = Transpose<perm=[1,0]>(w) b = Transpose<perm=[1,0]>(w) "
        "c = MatMul(x, a) d = MatMul(c, b) y = Add(c, d)",
        "float[4,4] w",
    )
    assert operators(model) == ["MatMul", "MatMul", "Add"]
    x, w = normal(3, 4), normal(4, 4)
    np.testing.assert_allclose(run(model, x=x, w=w), x @ w.T + x @ w.T @ w.T, rtol=1e-4)


@pytest.mark.parametrize(
    "other", ["o = Add(w, w)", "o = Transpose<perm=[0,1]>(w)"], ids=["as it is", "another way"]
)
def test_a_weight_that_is_also_used_otherwise_keeps_its_transpose(other: str) -> None:
    model = cleaned(
        f"t = Transpose<perm=[1,0]>(w) {other} c = MatMul(x, t) y = MatMul(c, o)", "float[4,4] w"
    )
    assert "Transpose" in operators(model)
    assert TRANSPOSED not in weight(model, "w").metadata_props


def test_an_unsqueezed_weight_is_stored_with_its_axes() -> None:
    model = cleaned(
        "axes = Constant<value_ints=[0,2]>() u = Unsqueeze(w, axes) s = Squeeze(u, axes) "
        "y = Add(x, s)",
        "float[4] w",
    )
    assert operators(model) == ["Squeeze", "Add"]
    assert weight(model, "w").shape == [1, 4, 1]
    x, w = normal(2, 4), normal(4)
    np.testing.assert_allclose(run(model, x=x, w=w), x + w, rtol=1e-6)


@pytest.mark.parametrize(
    ("output", "left"), [("float[N,4] y", ["Add"]), ("float16[N,4] y", ["Cast", "Add"])]
)
def test_casts_to_another_value_s_type_are_resolved(output: str, left: list[str]) -> None:
    kind = output.partition("[")[0]
    model = cleaned("c = CastLike(x, w) y = Add(c, w)", f"{kind}[4] w", output)
    assert operators(model) == left


def test_identities_unused_and_repeated_nodes_go() -> None:
    model = cleaned(
        "i = Identity(x) j = Identity(i) unused = Exp(j) a = Relu(i) b = Relu(x) c = Add(a, b) "
        "y = Identity(c)"
    )
    assert operators(model) == ["Relu", "Add"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    x = normal(2, 4)
    np.testing.assert_allclose(run(model, x=x), 2 * np.maximum(x, 0), rtol=1e-6)


def test_constant_arithmetic_is_done_and_equal_constants_are_one() -> None:
    model = cleaned(
        "two = Constant<value_float=2.0>() three = Constant<value_float=3.0>() "
        "six = Mul(two, three) again = Constant<value_float=6.0>() "
        "a = Mul(x, six) y = Add(a, again)"
    )
    assert operators(model) == ["Mul", "Add"]
    (constant,) = model.graph.initializers.values()
    assert constant.const_value is not None
    assert constant.const_value.numpy() == 6


def test_names_tell_nothing_but_the_order_and_keep_the_contract_s() -> None:
    first = cleaned("one = Relu(x) other = Exp(one) y = Add(one, other)")
    second = cleaned("a = Relu(x) b = Exp(a) y = Add(a, b)")
    assert ir.to_proto(first) == ir.to_proto(second)
    assert [node.name for node in first.graph] == ["Relu_0", "Exp_1", "Add_2"]


def test_notes_of_the_tracer_go() -> None:
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[N] x) => (float[N] y) {y = Exp(x)}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    model.doc_string = model.graph.doc_string = "made there"
    for noted in (model, model.graph, model.graph[0], *model.graph.inputs, *model.graph.outputs):
        noted.metadata_props["pkg.torch.onnx.stack_trace"] = "File there/module.py"
    model.graph[0].doc_string = "made there"
    clean(model, protected={"x"})
    assert b"there" not in ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize("role", ROLES)
def test_nothing_a_runtime_would_fold_is_left_in_a_bundle(bundle: Bundle, role: str) -> None:
    for path in bundle.component(role).graphs.values():
        graph = onnx.load(bundle.root / path, load_external_data=False).graph
        stored = {tensor.name for tensor in graph.initializer}
        stored |= {n.output[0] for n in graph.node if n.op_type == "Cast" and n.input[0] in stored}
        used = {name for node in graph.node for name in node.input}
        used |= {value.name for value in graph.output}
        for node in graph.node:
            assert node.op_type not in {"CastLike", "Constant", "Identity"}
            assert node.op_type == "Cast" or not stored >= set(node.input), node.name
            assert node.op_type != "Transpose" or node.input[0] not in stored, node.name
            assert used & set(node.output), f"{node.name} is not used"
        assert {tensor.name for tensor in graph.initializer} <= used
        constants = Counter(
            (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
            for tensor in graph.initializer
            if tensor.name.startswith("constant_")
        )
        assert not [kind for kind, count in constants.items() if count > 1]


TRACE = """
import onnx_ir, sys, tiny_components
from lightfill.export.graph import trace
graph = onnx_ir.to_proto(trace(tiny_components.architecture_of("text_encoder"), "float16"))
sys.stdout.buffer.write(graph.SerializeToString(deterministic=True))
"""


# slow: traces in a process of its own
@pytest.mark.slow
def test_the_same_architecture_gives_the_same_bytes_in_every_process(private_cache: None) -> None:
    here = ir.to_proto(traced(tiny_components.architecture_of("text_encoder"), "float16"))
    changed = {"PYTHONHASHSEED": "1234", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(
        [sys.executable, "-c", TRACE], stdout=subprocess.PIPE, check=True, env=os.environ | changed
    )
    assert ran.stdout == here.SerializeToString(deterministic=True)
