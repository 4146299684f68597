"""A parsed TensorRT network: its sizes fixed, its types counted and held to what was promised.

TensorRT builds exactly the types the network has. Layers that multiply matrices in float32 cost
speed without a word, so the network is counted before anything is built.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..engine.components import CONTRACTS
from ..engine.engine_key import input_shape
from ..engine.errors import BuildFailed
from .lint import FLOAT32_MATRICES

if TYPE_CHECKING:
    import tensorrt_rtx as trt

_FLOATS = {"FLOAT", "HALF", "BF16", "FP8", "FP4"}
_MATRICES = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM"}
_ATTENTION = "ATTENTION"
_ELEMENTS = {"activation": "HALF", "float32": "FLOAT", "int64": "INT64"}

Shapes = dict[str, tuple[int, ...]]


def require_contract(network: "trt.INetworkDefinition", role: str) -> None:
    """Raise BuildFailed unless inputs and outputs have the contract's names and dtypes."""
    contract = CONTRACTS[role]
    for what, found, tensors in (
        ("inputs", _dtypes(network.get_input, network.num_inputs), contract.inputs),
        ("outputs", _dtypes(network.get_output, network.num_outputs), contract.outputs),
    ):
        wanted = {name: _ELEMENTS[promised.element] for name, promised in tensors.items()}
        if found != wanted:
            raise BuildFailed(
                f"the graph has {what} {found}, a float16 {role} has {wanted}; export the bundle "
                "again with this version of lightfill"
            )


def fix_sizes(network: "trt.INetworkDefinition", role: str, sizes: Mapping[str, int]) -> Shapes:
    """Make every input's shape static, and return the shapes by name."""
    shapes = {}
    for tensor in map(network.get_input, range(network.num_inputs)):
        fixed = zip(input_shape(role, tensor.name, sizes), tensor.shape, strict=True)
        shapes[tensor.name] = tuple(own if size is None else size for size, own in fixed)
        tensor.shape = shapes[tensor.name]
    return shapes


def counted_layers(network: "trt.INetworkDefinition") -> dict[str, dict[str, int]]:
    """How many layers of each kind compute in which floating types ("HALF", "FLOAT/HALF")."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for kind, types in _layers(network):
        if types:
            counts[kind]["/".join(sorted(types))] += 1
    return {kind: dict(sorted(counts[kind].items())) for kind in sorted(counts)}


def require_float16(layers: Mapping[str, Mapping[str, int]], role: str) -> None:
    """Raise BuildFailed unless what multiplies matrices does so in float16.

    A safety checker's comparisons with its concepts are the exception (`export.lint`).
    """
    matrices = {
        kind: types
        for kind, types in layers.items()
        if kind in _MATRICES or kind.startswith(_ATTENTION)
    }
    others: Counter[str] = Counter()
    for kind, types in matrices.items():
        for precision, count in types.items():
            if precision != "HALF":
                others[f"{kind} in {precision}"] += count
    allowed = Counter({"MATRIX_MULTIPLY in FLOAT": FLOAT32_MATRICES.get(role, 0)})
    if others - allowed:
        found = ", ".join(f"{count} {what}" for what, count in sorted(others.items()))
        raise BuildFailed(
            f"its network does not compute in float16: {found}; export the bundle again with "
            "`lightfill export --arithmetic float16`"
        )


def _dtypes(get: "Callable[[int], trt.ITensor]", count: int) -> dict[str, str]:
    return {tensor.name: tensor.dtype.name for tensor in map(get, range(count))}


def _layers(network: "trt.INetworkDefinition") -> Iterator[tuple[str, set[str]]]:
    """Kind of every layer and the floating types it reads and writes."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        tensors = [
            *(layer.get_input(i) for i in range(layer.num_inputs)),
            *(layer.get_output(i) for i in range(layer.num_outputs)),
        ]
        types = {tensor.dtype.name for tensor in tensors if tensor is not None}
        yield layer.type.name, types & _FLOATS
