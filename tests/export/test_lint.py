"""The lint finds what TensorRT would run in float32 or would refuse; so does its own parser."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import run_directory
import tiny_components
from onnx import NodeProto, TensorProto, helper

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import ExportError
from lightfill.export import lint as lint_module
from lightfill.export.lint import FLOAT32_IN_FLOAT16_GRAPHS, lint, parse_with_tensorrt_rtx

ROLES = ("text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder")
OPTIONAL = ("safety_checker", "prompt_expander")
HALF, FLOAT, DOUBLE = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE


def node(kind: str, *inputs: str, **attributes: Any) -> NodeProto:
    """Its name and its output's are those of its kind."""
    made: NodeProto = helper.make_node(kind, inputs, [f"{kind}.out"], name=kind, **attributes)
    return made


def save(
    path: Path, nodes: Sequence[NodeProto], inputs: dict[str, int], output: int = HALF
) -> Path:
    """A graph of 4-by-4 tensors whose last node makes the output."""
    result = helper.make_tensor_value_info(nodes[-1].output[0], output, None)
    given = [helper.make_tensor_value_info(name, kind, [4, 4]) for name, kind in inputs.items()]
    graph = helper.make_graph(nodes, "by hand", given, [result])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


CASTS = [node("Cast", "x", to=FLOAT), helper.make_node("Cast", ["MatMul.out"], ["y"], to=HALF)]


@pytest.mark.parametrize(
    ("nodes", "inputs", "found"),
    [
        ([CASTS[0], node("MatMul", "Cast.out", "Cast.out"), CASTS[1]], {"x": HALF},
         "MatMul MatMul computes in float "),
        ([CASTS[0], node("Softmax", "Cast.out"), node("MatMul", "x", "x")], {"x": HALF},
         "Softmax Softmax computes in float "),
        ([node("Pow", "x", "y")], {"x": HALF, "y": FLOAT},
         r"Pow Pow mixes \['float', 'float16'\]"),
        ([node("MatMul", "x", "y")], {"x": HALF, "y": FLOAT},
         r"node name: MatMul\): B has inconsistent type tensor\(float\)"),
        ([node("Unheard", "x", domain="elsewhere"), node("Relu", "Unheard.out")], {"x": HALF},
         "Relu Relu reads a tensor of unknown type"),
        ([CASTS[0], node("Relu", "nowhere")], {"x": HALF},
         r"node name: Relu\): .* Input 0 expected to have type"),
        ([node("Cast", "x", to=DOUBLE), node("Sin", "Cast.out"), node("MatMul", "x", "x")],
         {"x": HALF}, "Sin Sin computes in double"),
    ],
    ids=["matrix", "softmax", "mixed", "mixed, refused by ONNX", "operator", "tensor", "float64"],
)  # fmt: skip
@pytest.mark.parametrize("role", ["vae_decoder", "unet"])
def test_each_violation_of_a_float16_graph_is_found(
    tmp_path: Path, role: str, nodes: list[NodeProto], inputs: dict[str, int], found: str
) -> None:
    path = save(tmp_path / "float16.onnx", nodes, inputs)
    message = rf"^{role}: the float16 graph is not strongly typed: .*{found}.*\(1 in all\); report"
    with pytest.raises(ExportError, match=message):
        lint(path, role, "float16")


@pytest.mark.parametrize(
    ("kind", "found"), [(HALF, "float16"), (DOUBLE, "double"), (TensorProto.BFLOAT16, "bfloat16")]
)
def test_a_float32_graph_computes_in_nothing_else(tmp_path: Path, kind: int, found: str) -> None:
    nodes = [node("Cast", "x", to=kind), node("MatMul", "Cast.out", "Cast.out")]
    path = save(tmp_path / "float32.onnx", nodes, {"x": FLOAT}, kind)
    with pytest.raises(ExportError, match=f"float32 graph .* MatMul computes in {found} "):
        lint(path, "safety_checker", "float32")
    nodes = [node("MatMul", "x", "x"), node("Cast", "MatMul.out", to=kind)]
    lint(save(tmp_path / "float32.onnx", nodes, {"x": FLOAT}, kind), "unet", "float32")


def test_many_problems_are_counted_and_three_are_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], [f"y{i}"], name=f"number{i}") for i in range(5)]
    path = save(tmp_path / "float16.onnx", nodes, {"x": FLOAT}, FLOAT)
    with pytest.raises(ExportError, match=r"number0 .*number1 .*number2 .*\(5 in all\)") as raised:
        lint(path, "unet", "float16")
    assert "number3" not in str(raised.value)


def test_graphs_inside_operators_and_functions_are_no_hiding_place(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "inner", [],
        [helper.make_tensor_value_info("z", HALF, None)],
    )  # fmt: skip
    branch = node("If", "b", then_branch=inner, else_branch=inner)
    path = save(tmp_path / "float16.onnx", [branch], {"x": HALF, "b": TensorProto.BOOL})
    with pytest.raises(ExportError, match="graph inside If If is not looked into"):
        lint(path, "unet", "float16")
    model = onnx.load(save(path, [node("Twice", "x", domain="elsewhere")], {"x": HALF}))
    function = helper.make_function(
        "elsewhere", "Twice", ["x"], ["z"], [helper.make_node("Add", ["x", "x"], ["z"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    model.functions.append(function)
    onnx.save(model, path)
    with pytest.raises(ExportError, match="function Twice is not looked into"):
        lint(path, "unet", "float16")


# slow: the first of the two following tests traces the component
@pytest.mark.slow
def test_one_matrix_too_many_in_float32_is_found(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, private_cache: None
) -> None:
    graphs = tiny_components.graphs_in(
        run_directory.directory_of(tmp_path_factory), "safety_checker"
    )
    model = onnx.load(graphs["float16"], load_external_data=False)
    products = [each for each in model.graph.node if each.op_type == "MatMul"]
    model.graph.node.append(products[-1])  # similarities with a set of concepts
    model.graph.node[-1].output[0] = "once more"
    onnx.save(model, tmp_path / "float16.onnx")
    with pytest.raises(ExportError, match=r"\{'MatMul': 3\} multiply matrices in float32"):
        lint(tmp_path / "float16.onnx", "safety_checker", "float16")


def float32_operators(path: Path) -> Counter[str]:
    """Operators of a float16 graph that read float32, by onnx's own inference."""
    model = onnx.load(path, load_external_data=False)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    floats = {
        value.name
        for value in [*graph.value_info, *graph.input, *graph.output]
        if value.type.tensor_type.elem_type == FLOAT
    }
    floats |= {tensor.name for tensor in graph.initializer if tensor.data_type == FLOAT}
    free = {"Cast", "Shape", "Resize"}  # Resize's scales are float32 by definition
    return Counter(n.op_type for n in graph.node if floats & set(n.input) and n.op_type not in free)


@pytest.mark.parametrize("role", ROLES)
def test_a_bundle_s_graphs_are_strongly_typed(bundle: Bundle, role: str) -> None:
    for arithmetic in bundle.component(role).graphs:
        lint(bundle.graph(role, arithmetic), role, arithmetic)
    assert parse_with_tensorrt_rtx(bundle.graph(role, "float16"), role)
    wanted = FLOAT32_IN_FLOAT16_GRAPHS.get(role, frozenset())
    found = float32_operators(bundle.graph(role, "float16"))
    assert found.keys() == wanted, "the list names what there is and no more"


# slow: traces the components
@pytest.mark.slow
@pytest.mark.parametrize("role", OPTIONAL)
def test_optional_components_are_strongly_typed(
    tmp_path_factory: pytest.TempPathFactory, private_cache: None, role: str
) -> None:
    graphs = tiny_components.graphs_in(run_directory.directory_of(tmp_path_factory), role)
    for arithmetic, path in graphs.items():
        lint(path, role, arithmetic)
    assert parse_with_tensorrt_rtx(graphs["float16"], role)
    found = float32_operators(graphs["float16"])
    assert found.keys() == FLOAT32_IN_FLOAT16_GRAPHS.get(role, frozenset())
    assert found["MatMul"] == (2 if role == "safety_checker" else 0)


def test_only_the_roles_with_float32_arithmetic_may_have_it() -> None:
    assert FLOAT32_IN_FLOAT16_GRAPHS.keys() == {"unet", "safety_checker"}


def test_a_float32_graph_passed_off_as_float16_is_found() -> None:
    bundle = Bundle.open()
    for role in ROLES:
        with pytest.raises(ExportError, match="not strongly typed"):
            lint(bundle.graph(role, "float32"), role, "float16")
        with pytest.raises(ExportError, match="not strongly typed"):
            lint(bundle.graph(role, "float16"), role, "float32")


def test_the_parser_s_own_words_say_what_it_refuses(tmp_path: Path) -> None:
    path = save(tmp_path / "mixed.onnx", [node("MatMul", "x", "y")], {"x": HALF, "y": FLOAT})
    message = r"(?s)^unet: TensorRT-RTX's parser refuses .*MatMul.*same input types.*; report this"
    with pytest.raises(ExportError, match=message):
        parse_with_tensorrt_rtx(path, "unet")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.abort()", "exit status -6"),
        ("raise SystemExit('out of memory')", "exit status 1: out of memory"),
        ("print('[]'.replace('[]', 'half a line'))", "exit status 0"),
        ("""print('["no reason given"]')""", "no reason given"),
    ],
)
def test_a_parser_that_dies_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, said: str
) -> None:
    monkeypatch.setattr(lint_module, "_PARSE", program)
    with pytest.raises(ExportError, match=said):
        parse_with_tensorrt_rtx(tmp_path / "float16.onnx", "unet")


def test_without_tensorrt_rtx_nothing_is_parsed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lint_module, "find_spec", lambda name: None)
    assert parse_with_tensorrt_rtx(tmp_path / "no such file", "unet") is False
