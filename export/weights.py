"""One weights file per component, shared by its float32 and float16 graphs.

Initializers are written once per content as external data. A float32 initializer that float16 holds
exactly (weights of a float16 checkpoint) is stored as float16 with a Cast in front of its users:
runtimes fold the Cast when they load, so float32 arithmetic costs no disk.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..engine.errors import ExportError

_INLINE_BYTES = 512  # smaller tensors stay inside the graph
_PAGE_BYTES = 4096
_PAGE_ALIGNED_FROM = 1 << 20
_ALIGNMENT = 64


class SharedWeights:
    """The weights file of one component, while its graphs are saved beside it, one after another.

    A context manager: the file is complete when the block ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._offsets: dict[bytes, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def save(self, model: ir.Model, name: str) -> Path:
        """Write the graph as `name` beside the weights file, its large initializers moved there.

        The initializers are written at once: the exporter's module may be cast or freed afterwards.
        """
        for value in list(model.graph.initializers.values()):
            self._externalise(model.graph, value)
        graph_path = self._path.with_name(name)
        ir.save(model, graph_path)
        return graph_path

    def _put(self, name: str, array: NDArray[np.generic], dtype: ir.DataType) -> ir.ExternalTensor:
        data = np.ascontiguousarray(array).tobytes()
        digest = hashlib.sha256(data).digest()
        if digest not in self._offsets:
            self._offsets[digest] = self._append(data)
        return ir.ExternalTensor(
            location=self._path.name,
            offset=self._offsets[digest],
            length=len(data),
            dtype=dtype,
            shape=ir.Shape(array.shape),
            name=name,
            base_dir=self._path.parent,
        )

    def _append(self, data: bytes) -> int:
        file = self._file
        step = _PAGE_BYTES if len(data) >= _PAGE_ALIGNED_FROM else _ALIGNMENT
        file.write(b"\0" * (-file.tell() % step))
        offset = file.tell()
        file.write(data)
        return offset

    def _externalise(self, graph: ir.Graph, value: ir.Value) -> None:
        tensor = value.const_value
        if tensor is None or value.name is None:
            raise ExportError(f"initializer {value.name!r} has no value; report this")
        array = tensor.numpy()
        if tensor.nbytes < _INLINE_BYTES:
            value.const_value = ir.tensor(array, name=value.name)
        elif (halved := _exact_float16(array)) is not None:
            stored = self._put(value.name, halved, ir.DataType.FLOAT16)
            _replace_with_cast(graph, value, stored)
        else:
            value.const_value = self._put(value.name, array, tensor.dtype)


def _exact_float16(array: NDArray[np.generic]) -> NDArray[np.float16] | None:
    """The float32 array as float16 if that loses nothing, else None."""
    if array.dtype != np.float32:
        return None
    with np.errstate(over="ignore"):
        halved = array.astype(np.float16)
    return halved if np.array_equal(halved.astype(np.float32), array) else None


def _replace_with_cast(graph: ir.Graph, value: ir.Value, stored: ir.ExternalTensor) -> None:
    """Feed `value`'s users from a float16 initializer of the same name through a Cast."""
    name = value.name
    del graph.initializers[name]  # type: ignore[arg-type]
    value.name = f"{name}.float32"
    value.const_value = None
    source = ir.Value(
        name=name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16), const_value=stored
    )
    graph.initializers[name] = source  # type: ignore[index]
    cast = ir.node("Cast", [source], attributes={"to": ir.DataType.FLOAT})
    cast.outputs[0].name = value.name
    cast.outputs[0].shape, cast.outputs[0].type = value.shape, value.type
    ir.convenience.replace_all_uses_with(value, cast.outputs[0])
    graph.insert_before(graph[0], cast)
