"""Weights streamed into a component's file, and its graphs completed with references to them.

One file serves the float32 and the float16 graph. A float32 graph reads float16 weights through a
Cast in front of their users: runtimes fold it when they load, so float32 arithmetic costs no disk
(docs/decisions/0001-two-graphs-one-weights-file.md).
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from ..engine.errors import ExportError
from ..engine.manifest import Arithmetic
from .graph_cleaning import TRANSPOSED
from .tensors import Weights, as_array

WEIGHTS_NAME = "weights.bin"

_INLINE_BYTES = 512  # smaller tensors stay inside the graph
_PAGE_BYTES = 4096
_PAGE_ALIGNED_FROM = 1 << 20
_ALIGNMENT = 64

_Stored = tuple[str, str]
"""A checkpoint key and the permutation it is stored under."""


def write_component(
    graphs: Mapping[Arithmetic, ir.Model],
    inputs: int,
    weights: Weights,
    dtype: torch.dtype,
    directory: Path,
    on_bytes: Callable[[int], None],
) -> None:
    """Write `weights.bin` and one .onnx file per arithmetic into `directory`.

    Every graph input after the first `inputs` is a weight named by its checkpoint key, read once
    and stored as `dtype`. `on_bytes` is told how many bytes each weight came to.
    """
    wanted = {arithmetic: list(graph.graph.inputs[inputs:]) for arithmetic, graph in graphs.items()}
    path = directory / WEIGHTS_NAME
    with path.open("wb") as file:
        offsets = _write_weights(file, wanted.values(), weights, dtype, on_bytes)
        file.flush()
        os.fsync(file.fileno())
    for arithmetic, graph in graphs.items():
        _attach(graph.graph, wanted[arithmetic], offsets, path, dtype)
        ir.save(graph, directory / f"{arithmetic}.onnx")


def _write_weights(
    file: BinaryIO,
    wanted: Iterable[list[ir.Value]],
    weights: Weights,
    dtype: torch.dtype,
    on_bytes: Callable[[int], None],
) -> dict[_Stored, int | NDArray[Any]]:
    """Where each stored tensor begins, or the array itself if it is small."""
    needed: dict[str, set[str]] = {}
    for values in wanted:
        for value in values:
            needed.setdefault(_name(value), set()).add(_permutation(value))
    stored: dict[_Stored, int | NDArray[Any]] = {}
    for key, permutations in needed.items():
        array = stored_array(weights, key, dtype)
        for permutation in sorted(permutations):
            axes = [int(axis) for axis in permutation.split(",") if axis]
            arranged = np.ascontiguousarray(array.transpose(axes)) if axes else array
            small = array.nbytes < _INLINE_BYTES
            stored[key, permutation] = arranged if small else _append(file, arranged)
        on_bytes(array.nbytes)
    return stored


def stored_array(weights: Weights, key: str, dtype: torch.dtype) -> NDArray[Any]:
    """One tensor as it is stored; ExportError if it is damaged or does not fit the dtype."""
    try:
        return as_array(weights.read(key), dtype)
    except ValueError:
        raise ExportError(
            f"{weights.origin}: {key} holds NaN or infinity; copy the checkpoint again, or choose "
            "another"
        ) from None
    except OverflowError:
        raise ExportError(
            f"{weights.origin}: {key} does not fit {str(dtype).removeprefix('torch.')}; export "
            "with --dtype fp32, or choose another checkpoint"
        ) from None


def _append(file: BinaryIO, array: NDArray[Any]) -> int:
    step = _PAGE_BYTES if array.nbytes >= _PAGE_ALIGNED_FROM else _ALIGNMENT
    file.write(b"\0" * (-file.tell() % step))
    offset = file.tell()
    file.write(array.data)
    return offset


def _attach(
    graph: ir.Graph,
    values: list[ir.Value],
    stored: Mapping[_Stored, int | NDArray[Any]],
    path: Path,
    dtype: torch.dtype,
) -> None:
    """Turn weight inputs into initializers that refer to the file."""
    element = ir.DataType.FLOAT16 if dtype == torch.float16 else ir.DataType.FLOAT
    del graph.inputs[len(graph.inputs) - len(values) :]
    for value in values:
        found = stored[_name(value), _permutation(value)]
        value.metadata_props.clear()
        shape = ir.Shape(value.shape or ())
        if isinstance(found, np.ndarray):
            small = found.reshape(shape.numpy()).astype((value.dtype or element).numpy())
            value.const_value = ir.tensor(small, name=value.name)
            graph.initializers[_name(value)] = value
            continue
        tensor = ir.ExternalTensor(
            location=path.name,
            offset=found,
            length=math.prod(shape.numpy()) * dtype.itemsize,
            dtype=element,
            shape=shape,
            name=_name(value),
            base_dir=path.parent,
        )
        if value.dtype == element:
            value.const_value = tensor
            graph.initializers[_name(value)] = value
        else:
            _feed_through_cast(graph, value, tensor)


def _feed_through_cast(graph: ir.Graph, value: ir.Value, tensor: ir.ExternalTensor) -> None:
    """Feed `value`'s users from an initializer of the same name and another type, cast."""
    name = _name(value)
    source = ir.Value(
        name=name, shape=value.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.initializers[name] = source
    cast = ir.node("Cast", [source], attributes={"to": value.dtype}, name=f"{name}.cast")
    cast.outputs[0].name = f"{name}.{'float32' if value.dtype == ir.DataType.FLOAT else 'cast'}"
    cast.outputs[0].shape, cast.outputs[0].type = value.shape, value.type
    ir.convenience.replace_all_uses_with(value, cast.outputs[0])
    graph.insert_before(graph[0], cast)


def _name(value: ir.Value) -> str:
    if value.name is None:
        raise ExportError("an exported graph has a weight without a name; report this")
    return value.name


def _permutation(value: ir.Value) -> str:
    return str(value.metadata_props.get(TRANSPOSED, ""))
