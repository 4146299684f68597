"""One component as an ONNX graph without weights: traced by torch, cleaned, checked.

The trace sees names and shapes only. Weights are inputs of the graph it makes, under their
checkpoint keys, and become initializers when `weights_file` streams them in. So a graph is a
function of configuration, arithmetic and code, is traced once for all checkpoints of one shape, and
takes well under 1 GB for SDXL's UNet.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..engine.components import CONTRACTS, TOKENS, Contract, symbol_of
from ..engine.errors import ExportError
from ..engine.manifest import Arithmetic
from .architecture import Architecture
from .attention import write_out_attention
from .graph_cleaning import clean

OPSET = 20
"""Chosen by measurement: docs/decisions/0003-opset-20-and-plain-attention.md."""

TORCH_TYPES: dict[Arithmetic, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}

_EXAMPLE = {"batch": 2, "height": 8, "width": 12, "tokens": 5, "past": 3}
"""Distinct, so that no two dimensions are taken for one."""
_TYPICAL = {"timestep": 499.0, "time_ids": 512.0}  # as large as real ones; others are normal
_MAX_BATCH = 8
_MAX_QUARTERS = 64  # of 4 latent cells, 32 pixels: 2048 pixels
_MAX_TOKENS = 1024


def trace(architecture: Architecture, arithmetic: Arithmetic, opset: int = OPSET) -> ir.Model:
    """The graph of a component, dynamic in batch, height and width, with weights as inputs.

    Height and width are multiples of 4 latent cells (32 pixels), as the UNet's two halvings need.
    The contract's inputs come first, then the weights, named by their checkpoint keys.
    """
    contract = CONTRACTS[architecture.role]
    module = architecture.module.to(TORCH_TYPES[arithmetic])
    write_out_attention(module)
    with _quiet():
        exported = _export(module, contract, arithmetic)
        program = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=opset,
            input_names=list(contract.inputs),
            output_names=list(contract.outputs),
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise ExportError(
            f"torch exported nothing for {architecture.role}; report this with your torch version"
        )
    model = program.model
    _weights_become_inputs(model.graph, architecture)
    clean(model, protected=set(contract.inputs))
    _check_contract(model, architecture.role, contract, arithmetic)
    return model


def example_inputs(
    module: nn.Module, contract: Contract, sizes: dict[str, int], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Fixed pseudo-random inputs of a component at the given sizes of its symbols."""
    generator = torch.Generator().manual_seed(0)
    open_sizes = {name: iter(widths) for name, widths in module.widths().items()}  # type: ignore[operator]
    inputs = {}
    for name, tensor in contract.inputs.items():
        shape = [
            next(open_sizes[name]) if dimension is None else _size(dimension, sizes)
            for dimension in tensor.shape
        ]
        if tensor.element == "int64":
            inputs[name] = torch.randint(1, TOKENS, shape, generator=generator)
        elif name in _TYPICAL:
            inputs[name] = torch.full(shape, _TYPICAL[name])
        else:
            element = dtype if tensor.element == "activation" else torch.float32
            inputs[name] = torch.randn(shape, generator=generator).to(element)
    return inputs


def _size(dimension: int | str, sizes: dict[str, int]) -> int:
    if isinstance(dimension, int):
        return dimension
    factor, symbol = symbol_of(dimension)
    return factor * sizes[symbol]


def _export(
    module: nn.Module, contract: Contract, arithmetic: Arithmetic
) -> torch.export.ExportedProgram:
    """Trace on fake tensors: shapes and types flow through the code, no number does."""
    dtype = TORCH_TYPES[arithmetic]
    examples = example_inputs(module, contract, _EXAMPLE, dtype)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        for child in module.modules():
            for name, parameter in child._parameters.items():
                if parameter is not None:
                    fake = torch.empty(parameter.shape, dtype=dtype)
                    child._parameters[name] = nn.Parameter(fake, requires_grad=False)
        return torch.export.export(
            module,
            (),
            kwargs={name: mode.from_tensor(value) for name, value in examples.items()},
            dynamic_shapes=_dynamic_shapes(contract),
            strict=False,
        )


def _dynamic_shapes(contract: Contract) -> dict[str, dict[int, object] | None]:
    quarters = {
        symbol: torch.export.Dim(f"{symbol}_quarters", min=2, max=_MAX_QUARTERS)
        for symbol in ("height", "width")
    }
    dims = {
        "batch": torch.export.Dim("batch", min=1, max=_MAX_BATCH),
        "tokens": torch.export.Dim("tokens", min=1, max=_MAX_TOKENS),
        "past": torch.export.Dim("past", min=0, max=_MAX_TOKENS),
    }

    def dynamic(dimension: int | str | None) -> object | None:
        if not isinstance(dimension, str):
            return None
        factor, symbol = symbol_of(dimension)
        return dims[symbol] if symbol in dims else 4 * factor * quarters[symbol]

    shapes: dict[str, dict[int, object] | None] = {}
    for name, tensor in contract.inputs.items():
        axes = {axis: dynamic(size) for axis, size in enumerate(tensor.shape)}
        shapes[name] = {axis: size for axis, size in axes.items() if size is not None} or None
    return shapes


def _weights_become_inputs(graph: ir.Graph, architecture: Architecture) -> None:
    """Move the parameters, of which the trace holds no numbers, from initializers to inputs."""
    for name, key in architecture.keys.items():
        value = graph.initializers.pop(name, None)
        if value is not None:
            value.const_value = None
            value.name = key
            graph.inputs.append(value)


def _check_contract(model: ir.Model, role: str, contract: Contract, arithmetic: Arithmetic) -> None:
    inputs = model.graph.inputs[: len(contract.inputs)]
    for kind, values, tensors in (
        ("input", inputs, contract.inputs),
        ("output", model.graph.outputs, contract.outputs),
    ):
        found = {value.name: value.dtype for value in values}
        wanted = {
            name: ir.DataType[_ir_name(tensor.element, arithmetic)]
            for name, tensor in tensors.items()
        }
        if found != wanted:
            raise ExportError(
                f"{role}: exported {kind}s {found} differ from {wanted}; report this with your "
                "torch version"
            )


def _ir_name(element: str, arithmetic: Arithmetic) -> str:
    name = arithmetic if element == "activation" else element
    return {"float32": "FLOAT", "float16": "FLOAT16", "int64": "INT64"}[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own deprecation and torchvision chatter off the user's screen."""
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.simplefilter("ignore", category=category)
            yield
    finally:
        exporter_log.setLevel(level)
