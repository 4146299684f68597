"""One component as an ONNX graph: traced by torch, checked against its contract, cleaned."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..engine.components import CONTRACTS, TOKENS, Contract, symbol_of
from ..engine.errors import ExportError
from ..engine.manifest import Arithmetic

OPSET = 20
"""Highest opset whose operators ONNX Runtime's CPU kernels and older TensorRT parsers all know."""

_TORCH_TYPES: dict[Arithmetic, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
_EXAMPLE = {"batch": 2, "height": 8, "width": 12}  # latent cells; distinct, so no two dims merge
_MAX_BATCH = 8
_MAX_QUARTERS = 64  # of 4 latent cells, 32 pixels: 2048 pixels


def export_graph(module: nn.Module, role: str, arithmetic: Arithmetic) -> ir.Model:
    """Trace a wrapped component into an ONNX graph, dynamic in batch, height and width.

    Height and width are multiples of 4 latent cells (32 pixels), as the UNet's two halvings need.
    Weights stay in memory as the graph's initializers.
    """
    contract = CONTRACTS[role]
    dtype = _TORCH_TYPES[arithmetic]
    examples = {name: _example(module, role, name, dtype) for name in contract.inputs}
    with _quiet():
        program = torch.onnx.export(
            module.to(dtype),
            kwargs=examples,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=_dynamic_shapes(contract),
            input_names=list(contract.inputs),
            output_names=list(contract.outputs),
            verbose=False,
        )
    if program is None:
        raise ExportError(f"torch exported nothing for {role}; report this with your torch version")
    _check_contract(program.model, role, contract, arithmetic)
    _strip_traces(program.model)
    return program.model


def _example(module: nn.Module, role: str, name: str, dtype: torch.dtype) -> Tensor:
    tensor = CONTRACTS[role].inputs[name]
    shape = [_example_size(dimension, module, role, name) for dimension in tensor.shape]
    if tensor.element == "int64":
        return torch.full(shape, TOKENS - 1, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    element = dtype if tensor.element == "activation" else torch.float32
    return torch.randn(shape, generator=generator).to(element)


def _example_size(dimension: int | str | None, module: nn.Module, role: str, name: str) -> int:
    if isinstance(dimension, int):
        return dimension
    if dimension is None:
        return _model_width(module, role, name)
    factor, symbol = symbol_of(dimension)
    return factor * _EXAMPLE[symbol]


def _model_width(module: Any, role: str, name: str) -> int:
    """The width the model's own configuration fixes, for dimensions the contract leaves open."""
    if role != "unet":
        return int(module.positions.weight.shape[1])
    config = module.unet.config
    if name == "encoder_hidden_states":
        return int(config.cross_attention_dim)
    return int(config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim)


def _dynamic_shapes(contract: Contract) -> dict[str, dict[int, object] | None]:
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    quarters = {
        symbol: torch.export.Dim(f"{symbol}_quarters", min=2, max=_MAX_QUARTERS)
        for symbol in ("height", "width")
    }

    def dynamic(dimension: int | str | None) -> object | None:
        if dimension == "batch":
            return batch
        if not isinstance(dimension, str):
            return None
        factor, symbol = symbol_of(dimension)
        return 4 * factor * quarters[symbol]

    shapes: dict[str, dict[int, object] | None] = {}
    for name, tensor in contract.inputs.items():
        axes = {axis: dynamic(size) for axis, size in enumerate(tensor.shape)}
        shapes[name] = {axis: size for axis, size in axes.items() if size is not None} or None
    return shapes


def _check_contract(model: ir.Model, role: str, contract: Contract, arithmetic: Arithmetic) -> None:
    for kind, values, tensors in (
        ("input", model.graph.inputs, contract.inputs),
        ("output", model.graph.outputs, contract.outputs),
    ):
        found = {value.name: value.dtype for value in values}
        wanted = {
            name: ir.DataType[_ir_name(tensor.element, arithmetic)]
            for name, tensor in tensors.items()
        }
        if found != wanted:
            raise ExportError(f"{role}: exported {kind}s {found} differ from {wanted}")


def _ir_name(element: str, arithmetic: Arithmetic) -> str:
    name = arithmetic if element == "activation" else element
    return {"float32": "FLOAT", "float16": "FLOAT16", "int64": "INT64"}[name]


def _strip_traces(model: ir.Model) -> None:
    """Drop the tracer's notes (stack traces, source paths): they name the exporting machine."""
    model.doc_string = model.graph.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own deprecation and torchvision chatter off the user's screen."""
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", category=FutureWarning)
            warnings.simplefilter("ignore", category=DeprecationWarning)
            warnings.simplefilter("ignore", category=UserWarning)
            yield
    finally:
        exporter_log.setLevel(level)
