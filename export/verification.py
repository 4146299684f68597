"""An exported component against PyTorch: the same inputs, the same weights, two sizes.

PyTorch computes in float32 from the checkpoint's tensors, rounded as they were stored, with
diffusers' and transformers' own code; ONNX Runtime runs what was written. Both stream: PyTorch
holds one layer's weights at a time, ONNX Runtime maps the file and casts while it runs.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..engine.components import CONTRACTS
from ..engine.errors import ExportError
from ..engine.manifest import Arithmetic, Verification
from ..engine.memory import return_freed
from .architecture import Architecture
from .graph import TORCH_TYPES, example_inputs
from .tensors import Weights

SIZES: tuple[dict[str, int], ...] = (
    {"batch": 1, "height": 16, "width": 16, "tokens": 7, "past": 1},
    {"batch": 2, "height": 8, "width": 20, "tokens": 1, "past": 9},
)
"""Two sizes, in latent cells, tokens and pictures, neither of which is the trace's."""

MINIMUM_PSNR: Mapping[Arithmetic, float] = {"float32": 80.0, "float16": 50.0}
"""Decibels below which a component fails; measured figures are in docs/performance.md."""

_STEP: Mapping[str, float] = {"safety_checker": 0.001}
"""By role, what its outputs are rounded to: from two sides of a border, equal is one step apart."""

_EQUAL = 999.0  # decibels, where the error is 0; infinity is not JSON
_COPYING_OPTIMIZERS = (
    "ConstantFolding",
    "FuseFp16InitializerToFp32NodeTransformer",
    "NchwcTransformer",
)
"""What would hold every weight in float32; as engine/sessions/onnxruntime.py's mapped weights."""
_WORTH_RETURNING = 4 << 20  # bytes; the C library keeps freed blocks, and their number grows
_STREAMED = (nn.Linear, nn.Conv2d, Conv1D)


def verify(
    architecture: Architecture,
    weights: Weights,
    dtype: torch.dtype,
    graphs: Mapping[Arithmetic, Path],
    on_run: Callable[[], None] = lambda: None,
) -> list[Verification]:
    """Compare every graph with PyTorch at every size; the caller decides what a failure means.

    `on_run` is called after each run of either side, for progress.
    """
    contract = CONTRACTS[architecture.role]
    feeds = [example_inputs(architecture.module, contract, sizes, torch.float32) for sizes in SIZES]
    module = with_streamed_weights(architecture, weights, dtype)
    expected = []
    for feed in feeds:
        with torch.no_grad():
            expected.append(_outputs(module(**feed)))
        on_run()
    del module
    return_freed()
    found = []
    for arithmetic, path in graphs.items():
        for sizes, actual, reference in zip(
            SIZES, _run_onnx(path, feeds, arithmetic, architecture.role, on_run), expected,
            strict=True,
        ):  # fmt: skip
            found.append(_compare(arithmetic, sizes, architecture.role, actual, reference))
    return found


def with_streamed_weights(
    architecture: Architecture, weights: Weights, dtype: torch.dtype
) -> nn.Module:
    """The component in float32 whose large layers read their weights when called, and drop them.

    Weights are rounded to `dtype`, as they are stored. The architecture's module is used up.
    """
    module = architecture.module.to(torch.float32)

    def read(key: str) -> nn.Parameter:
        rounded = weights.read(key).to(dtype).to(torch.float32)
        return nn.Parameter(rounded, requires_grad=False)

    for name, child in module.named_modules():
        own = {
            parameter: architecture.keys[f"{name}.{parameter}" if name else parameter]
            for parameter, value in child._parameters.items()
            if value is not None
        }
        if not isinstance(child, _STREAMED):
            child._parameters.update({parameter: read(key) for parameter, key in own.items()})
            continue

        def load(layer: nn.Module, _: Any, own: dict[str, str] = own) -> None:
            layer._parameters.update({parameter: read(key) for parameter, key in own.items()})

        def drop(layer: nn.Module, _: Any, __: Any, own: dict[str, str] = own) -> None:
            for parameter in own:
                empty = torch.empty(architecture.shapes[own[parameter]], device="meta")
                layer._parameters[parameter] = nn.Parameter(empty, requires_grad=False)
                if empty.nbytes >= _WORTH_RETURNING:
                    return_freed()

        child.register_forward_pre_hook(load)
        child.register_forward_hook(drop)
    return module


def _outputs(result: Tensor | tuple[Tensor, ...]) -> list[NDArray[Any]]:
    tensors = (result,) if isinstance(result, Tensor) else result
    return [tensor.numpy() for tensor in tensors]


def _run_onnx(
    path: Path,
    feeds: list[dict[str, Tensor]],
    arithmetic: Arithmetic,
    role: str,
    on_run: Callable[[], None],
) -> list[list[NDArray[Any]]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    if arithmetic == "float16":
        # The casts ONNX Runtime adds to weights would all run first; a float32 graph's own, which
        # the file lists first, run right before their readers by default, and would not in this.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.disable_prepacking", "1")  # a copy of every weight
    contract = CONTRACTS[role]
    try:
        session = onnxruntime.InferenceSession(
            path,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(_COPYING_OPTIMIZERS),
        )
        results = []
        for feed in feeds:
            arrays = {}
            for name, tensor in feed.items():
                activation = contract.inputs[name].element == "activation"
                arrays[name] = (
                    tensor.to(TORCH_TYPES[arithmetic]) if activation else tensor
                ).numpy()
            results.append(session.run(list(contract.outputs), arrays))
            on_run()
    except Exception as error:  # ONNX Runtime's exceptions share no narrower base
        raise ExportError(
            f"{role}: ONNX Runtime does not run the exported {arithmetic} graph ({error}); report "
            "this with your torch and onnxruntime versions"
        ) from error
    return results


def _compare(
    arithmetic: Arithmetic,
    sizes: Mapping[str, int],
    role: str,
    actual: list[NDArray[Any]],
    expected: list[NDArray[Any]],
) -> Verification:
    error = 0.0
    psnr = math.inf
    for found, reference in zip(actual, expected, strict=True):
        if found.shape != reference.shape:
            raise ExportError(
                f"{role}: the {arithmetic} graph makes {found.shape} of what PyTorch makes "
                f"{reference.shape}; report this with your torch version"
            )
        with np.errstate(invalid="ignore"):  # infinity on both sides is a failure, not a warning
            difference = found.astype(np.float64) - reference
        largest = float(np.abs(difference).max())
        error = max(error, largest if math.isfinite(largest) else math.inf)
        psnr = min(psnr, _psnr(difference, reference))
    inputs = CONTRACTS[role].inputs.values()
    used = {
        symbol: size
        for symbol, size in sizes.items()
        if any(symbol in str(axis) for tensor in inputs for axis in tensor.shape)
    }
    return Verification(
        arithmetic=arithmetic,
        sizes=used,
        max_abs_error=error,
        psnr_db=max(-_EQUAL, min(psnr, _EQUAL)),
        passed=psnr >= MINIMUM_PSNR[arithmetic] or error <= 1.01 * _STEP.get(role, 0.0),
    )


def _psnr(difference: NDArray[Any], reference: NDArray[Any]) -> float:
    """Decibels of the largest reference value over the error's root mean square; NaN fails."""
    error = float(np.sqrt(np.mean(np.square(difference))))
    if not math.isfinite(error):
        return -math.inf
    if error == 0:
        return math.inf
    return 20 * math.log10(max(float(np.abs(reference).max()), 1e-30) / error)
