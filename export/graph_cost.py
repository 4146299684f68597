"""What a component's graph costs at given sizes: floating-point operations and bytes, node by node.

Shapes are inferred one node at a time with every number known: sizes of the inputs are bound, and
the small integer tensors that say how to reshape are computed on the way. Nothing is run and no
weight is read, so that SDXL's UNet is counted in seconds on any machine.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from onnx.reference import ReferenceEvaluator

from ..engine.components import CONTRACTS, symbol_of
from ..engine.errors import ExportError
from ..engine.manifest import Role

_MATRICES: Mapping[str, tuple[int, int]] = {
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "Gemm": (0, 1),
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "Attention": (0, 1),
}
"""Operators that multiply matrices: which of their inputs are the two factors."""
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape"}
"""They give memory another shape and move none of it."""
_NOT_COUNTED = {"ConvTranspose", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan"}
"""They multiply matrices too, or hold graphs of their own; leaving them out would be a lie."""
_SMALL = 4096
"""Elements up to which an integer tensor is taken for a shape and computed."""


@dataclass(frozen=True, order=True)
class NodeCost:
    """One kind of node: `count` of them, each with these operations and bytes.

    flops: multiplications and additions of MatMul, Gemm, Conv and Attention; 0 for all others.
    bytes: what it reads and writes, its weights included; 0 for views.
    """

    operator: str
    flops: int
    bytes: int
    count: int


@dataclass(frozen=True)
class GraphCost:
    """A graph at one size. weight_bytes: as held when computing; io_bytes: inputs and outputs."""

    nodes: tuple[NodeCost, ...]
    weight_bytes: int
    io_bytes: int

    @property
    def flops(self) -> int:
        """Of the whole graph."""
        return sum(node.flops * node.count for node in self.nodes)


def count(path: Path, role: Role, sizes: Mapping[str, int]) -> GraphCost:
    """The cost of an exported graph at `sizes` (batch, latent height and width).

    Raises ExportError for operators whose cost is not known.
    """
    return count_model(onnx.load(path, load_external_data=False), role, sizes, path.parent)


def count_model(
    model: onnx.ModelProto, role: Role, sizes: Mapping[str, int], directory: Path | None = None
) -> GraphCost:
    """As `count`, of a model in memory; graph inputs beyond the contract's are weights."""
    if model.functions:
        raise ExportError(f"{role}: functions inside a graph are not counted; export it again")
    counting = _Counting(model, role, sizes, directory)
    costs: Counter[tuple[str, int, int]] = Counter()
    for node in model.graph.node:
        if (cost := counting.cost(node)) is not None:
            costs[cost] += 1
    nodes = tuple(sorted(NodeCost(*cost, times) for cost, times in costs.items()))
    names = [*CONTRACTS[role].inputs, *(output.name for output in model.graph.output)]
    return GraphCost(nodes, counting.weight_bytes, sum(map(counting.bytes_of, names)))


class _Counting:
    """The state of one pass over a graph: types, constants, and numbers that are shapes."""

    def __init__(
        self,
        model: onnx.ModelProto,
        role: Role,
        sizes: Mapping[str, int],
        directory: Path | None,
    ) -> None:
        self._role = role
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self._types: dict[str, TypeProto] = {}
        self._numbers: dict[str, np.ndarray[Any, Any]] = {}
        self._constants: set[str] = set()
        self._read: set[str] = set()
        inputs = CONTRACTS[role].inputs
        for value in model.graph.input:
            if value.name not in inputs:
                self._constants.add(value.name)
                self._types[value.name] = value.type
                continue
            kind = value.type.tensor_type.elem_type
            shape = [
                _bound(wanted, sizes, given.dim_value)
                for wanted, given in zip(
                    inputs[value.name].shape, value.type.tensor_type.shape.dim, strict=True
                )
            ]
            self._types[value.name] = helper.make_tensor_type_proto(kind, shape)
        for tensor in model.graph.initializer:
            self._constants.add(tensor.name)
            self._types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            if _may_shape(tensor):
                if uses_external_data(tensor) and directory is not None:
                    load_external_data_for_tensor(tensor, str(directory))
                self._numbers[tensor.name] = numpy_helper.to_array(tensor)

    def cost(self, node: NodeProto) -> tuple[str, int, int] | None:
        """Operator, operations and bytes; None for what is computed once, when loading."""
        if node.op_type in _NOT_COUNTED or node.domain not in ("", "ai.onnx"):
            raise ExportError(
                f"{self._role}: the cost of {node.domain}{node.op_type} is not known; export the "
                "bundle again with this version of lightfill"
            )
        self._infer(node)
        names = [name for name in node.input if name]
        if all(name in self._constants for name in names):
            self._constants.update(node.output)
            return None
        self._read |= self._constants.intersection(names)
        if node.op_type in _VIEWS or set(node.output) <= self._numbers.keys():
            return node.op_type, 0, 0
        moved = sum(map(self.bytes_of, [*names, *node.output]))
        return node.op_type, self._flops(node), moved

    def bytes_of(self, name: str) -> int:
        """Size of a tensor; 0 for an output that is left out."""
        if not name:
            return 0
        kind = self._types[name].tensor_type.elem_type
        itemsize = helper.tensor_dtype_to_np_dtype(kind).itemsize
        return itemsize * math.prod(self.shape(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """Every dimension of a tensor; ExportError if one is not known."""
        dimensions = self._types[name].tensor_type.shape.dim
        if not all(dimension.HasField("dim_value") for dimension in dimensions):
            raise ExportError(
                f"{self._role}: the shape of {name} is not known; export the bundle again with "
                "this version of lightfill"
            )
        return tuple(dimension.dim_value for dimension in dimensions)

    @property
    def weight_bytes(self) -> int:
        """Constants that nodes read, in the type they read them in."""
        return sum(map(self.bytes_of, self._read))

    def _flops(self, node: NodeProto) -> int:
        if node.op_type not in _MATRICES:
            return 0
        left, right = (self.shape(node.input[index]) for index in _MATRICES[node.op_type])
        result = self.shape(node.output[0])
        if node.op_type == "Attention":
            return _attention_flops(left, right, self.shape(node.input[2]), result, node)
        if "Conv" in node.op_type:
            return 2 * math.prod(result) * math.prod(right[1:])  # Cin per group, kernel
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return 2 * math.prod(result) * left[0 if transposed else -1]

    def _infer(self, node: NodeProto) -> None:
        """Types of the outputs, and their numbers where they are a shape's."""
        given = [name for name in node.input if name]
        data = {
            name: numpy_helper.from_array(self._numbers[name], name)
            for name in given
            if name in self._numbers
        }
        schema = onnx.defs.get_schema(node.op_type, self._opsets[node.domain], node.domain)
        try:
            outputs = onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                {name: self._types[name] for name in given},
                data,
                opset_imports=[helper.make_opsetid(*each) for each in self._opsets.items()],
            )
        except onnx.shape_inference.InferenceError as error:
            raise ExportError(
                f"{self._role}: {node.op_type} {node.name} cannot be followed ({error}); export "
                "the bundle again"
            ) from error
        self._types.update(outputs)
        self._numbers.update(self._computed(node, given))

    def _computed(
        self, node: NodeProto, given: Sequence[str]
    ) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        if node.op_type == "Shape":
            start, end = (
                next((a.i for a in node.attribute if a.name == name), default)
                for name, default in (("start", 0), ("end", None))
            )
            shape = self.shape(node.input[0])[start:end]
            yield node.output[0], np.array(shape, np.int64)
        elif all(name in self._numbers for name in given) and self._is_small(node):
            numbers = {name: self._numbers[name] for name in given}
            results = ReferenceEvaluator(node).run(None, numbers)
            yield from zip(node.output, map(np.asarray, results), strict=True)

    def _is_small(self, node: NodeProto) -> bool:
        return sum(math.prod(self.shape(name)) for name in node.output if name) <= _SMALL


def _may_shape(tensor: TensorProto) -> bool:
    """Whether it may say how to reshape, pad or resize: small, integers or kept in the graph."""
    kept = tensor.data_type == TensorProto.INT64 or not uses_external_data(tensor)
    return kept and math.prod(tensor.dims) <= _SMALL


def _bound(dimension: int | str | None, sizes: Mapping[str, int], given: int) -> int:
    if isinstance(dimension, str):
        factor, symbol = symbol_of(dimension)
        return factor * sizes[symbol]
    return given if dimension is None else dimension


def _attention_flops(
    query: tuple[int, ...],
    key: tuple[int, ...],
    value: tuple[int, ...],
    result: tuple[int, ...],
    node: NodeProto,
) -> int:
    """Both products: query with key, weights with value. Tensors are (batch, heads, length, width)
    or (batch, length, heads * width)."""
    rows = math.prod(result[:-1])
    if len(query) == 4:
        return 2 * rows * key[-2] * (query[-1] + value[-1])
    heads = {a.name: a.i for a in node.attribute}
    per_key = key[-1] // heads["kv_num_heads"] + value[-1] // heads["kv_num_heads"]
    return int(2 * rows * heads["q_num_heads"] * key[-2] * per_key)
