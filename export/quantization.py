"""A float32 graph to an OpenVINO network whose matrix products are int8, by NNCF.

Weights get a scale per output channel, activations one per tensor, asymmetric where that pays
(NNCF's MIXED preset); SmoothQuant moves outliers of activations into weights (arXiv 2211.10438).
Three choices depart from NNCF's defaults, each measured on the embedded model (docs/precision.md):
ranges hold everything that calibration saw, because the first step's activations are far larger
than the last's and averaged ranges cut them off; SmoothQuant moves half, not 95 %, and before
convolutions, too; the first and last convolution and the embeddings of time and size, which cost
next to nothing, stay float32.
"""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..engine.errors import ExportError
from ..engine.telemetry import no_telemetry

with no_telemetry():
    import nncf
    import openvino as ov
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

SMOOTHING = 0.5
KEPT_FLOAT32 = ("conv_in.", "conv_out.", "time_embedding.", "add_embedding.")
"""Beginnings of the checkpoint keys of weights that are not quantized."""
_PRODUCTS = {"Convolution", "MatMul"}


def write_quantized(graph: Path, feeds: Sequence[Mapping[str, Any]], network: Path) -> None:
    """Quantize an ONNX file by what `feeds` show of its inputs; write `network` (.xml and .bin).

    Raises ExportError; a network half written is the caller's to remove.
    """
    nncf.set_log_level(logging.ERROR)
    ranges = RangeEstimatorParametersSet.MINMAX
    try:
        model = ov.Core().read_model(graph)
        with redirect_stdout(io.StringIO()):  # NNCF's progress bars; --json prints there
            quantized = nncf.quantize(
                model,
                nncf.Dataset(list(feeds)),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(feeds),
                ignored_scope=nncf.IgnoredScope(names=list(_kept_float32(model))),
                advanced_parameters=AdvancedQuantizationParameters(
                    activations_range_estimator_params=ranges,
                    smooth_quant_alphas=AdvancedSmoothQuantParameters(
                        convolution=SMOOTHING, matmul=SMOOTHING
                    ),
                ),
            )
        ov.save_model(quantized, network, compress_to_fp16=True)
    except Exception as error:  # NNCF and OpenVINO raise a dozen unrelated types
        raise ExportError(
            f"{graph.parent.name} cannot be quantized: {_last_line(error)}; report this with the "
            "versions `lightfill doctor` shows"
        ) from error


def made_with() -> dict[str, str]:
    """Versions of what decides the network."""
    return {package: version(package) for package in ("nncf", "openvino")}


def _kept_float32(model: ov.Model) -> Iterator[str]:
    for node in model.get_ops():
        if node.get_type_name() in _PRODUCTS and _weight_of(node).startswith(KEPT_FLOAT32):
            yield node.get_friendly_name()


def _weight_of(product: ov.Node) -> str:
    """The checkpoint key of a product's weight, casts and transposes aside; "" if it has none."""
    node = product.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        if node.get_type_name() not in {"Convert", "Transpose", "Reshape"}:
            return ""
        node = node.input_value(0).get_node()
    return str(node.get_friendly_name())


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
