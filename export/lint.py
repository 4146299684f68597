"""Proof that a float16 graph is strongly typed, as TensorRT builds it: type by type.

TensorRT 11 builds exactly the types a graph has: a float32 operator costs speed without a word, and
one that mixes float16 with float32 is refused. Both are found here, before anything is built.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto

from ..engine.errors import ExportError
from ..engine.manifest import Arithmetic

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
_MATRIX = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Attention"}
_UNTYPED = {"Cast", "Shape"}  # their business is another type, or none

FLOAT32_IN_FLOAT16_GRAPHS: Mapping[str, frozenset[str]] = {
    # diffusers computes the sinusoids of timestep and sizes in float32, then casts
    "unet": frozenset({"Concat", "Cos", "Expand", "Mul", "Reshape", "Sin", "Slice", "Unsqueeze"}),
    # cosines and thresholds: a score is compared at 0.001, which float16 does not resolve
    "safety_checker": frozenset(
        {"Add", "Clip", "Div", "Expand", "Greater", "MatMul", "Mul", "ReduceL2", "ReduceMax"}
        | {"Round", "Sub", "Transpose"}
    ),
}
"""By role: the operators that may compute in float32 although the graph is float16."""

FLOAT32_MATRICES: Mapping[str, int] = {"safety_checker": 2}
"""Pictures with concepts, pictures with special-care concepts."""


def lint(path: Path, role: str, arithmetic: Arithmetic) -> None:
    """Raise ExportError if a graph is not typed as its arithmetic promises."""
    problems = list(_problems(onnx.load(path, load_external_data=False), role, arithmetic))
    if problems:
        raise ExportError(
            f"{role}: the {arithmetic} graph is not strongly typed: {'; '.join(problems[:3])} "
            f"({len(problems)} in all); report this with your torch and diffusers versions"
        )


def _problems(model: onnx.ModelProto, role: str, arithmetic: Arithmetic) -> Iterator[str]:
    try:
        types = _element_types(model)
    except onnx.shape_inference.InferenceError as error:  # most operators refuse mixed operands
        yield str(error).strip()
        return
    wanted = TensorProto.FLOAT16 if arithmetic == "float16" else TensorProto.FLOAT
    may_be_float32 = FLOAT32_IN_FLOAT16_GRAPHS.get(role, frozenset())
    matrices: Counter[str] = Counter()
    yield from (f"function {function.name} is not looked into" for function in model.functions)
    for node in model.graph.node:
        if node.op_type in _UNTYPED:
            continue
        if any(attribute.HasField("g") for attribute in node.attribute):
            yield f"the graph inside {node.op_type} {node.name} is not looked into"
        used = _float_types(node, types)
        if None in used:
            yield f"{node.op_type} {node.name} reads a tensor of unknown type"
        elif len(used) > 1:
            yield f"{node.op_type} {node.name} mixes {sorted(map(_named, used))}"
        elif used and used != {wanted}:
            if node.op_type not in may_be_float32 or used != {TensorProto.FLOAT}:
                yield f"{node.op_type} {node.name} computes in {_named(used.pop())}"
            elif node.op_type in _MATRIX:
                matrices[node.op_type] += 1
    if matrices.total() != (FLOAT32_MATRICES.get(role, 0) if arithmetic == "float16" else 0):
        yield f"{dict(matrices)} multiply matrices in float32"


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, inferred afresh by onnx, which also checks every operator."""
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _float_types(node: NodeProto, types: Mapping[str, int]) -> set[int | None]:
    """The floating types a node reads; Resize's scales are float32 by definition."""
    names = node.input[:1] if node.op_type == "Resize" else node.input
    found = {types.get(name) for name in names if name}
    return {kind for kind in found if kind is None or kind in _FLOATS}


def _named(kind: int | None) -> str:
    return "unknown" if kind is None else str(TensorProto.DataType.Name(kind)).lower()


def parse_with_tensorrt_rtx(path: Path, role: str) -> bool:
    """Let TensorRT-RTX's parser read a float16 graph; False where it is not installed.

    Raises ExportError if the parser refuses. It runs in a process of its own, whose memory is gone
    afterwards and whose crash would not be ours.
    """
    if find_spec("tensorrt_rtx") is None:
        return False
    command = [sys.executable, "-c", _PARSE, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        refused = json.loads(ran.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        refused = [f"exit status {ran.returncode}: {ran.stderr[-500:]}"]
    if refused:
        raise ExportError(
            f"{role}: TensorRT-RTX's parser refuses the float16 graph ({'; '.join(refused)}); "
            "report this with your tensorrt-rtx version"
        )
    return True


_PARSE = """
import json, sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
network = builder.create_network(flags)
parser = trt.OnnxParser(network, logger)
accepted = parser.parse_from_file(sys.argv[1])
errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
print(json.dumps(errors if not accepted else []) if accepted or errors else '["no reason given"]')
"""
