"""One component: traced, its weights streamed, its types checked, its numbers verified."""

import gc
import hashlib
import json
import time
from pathlib import Path

import numpy as np

from ..engine import peak_memory
from ..engine.components import CONTRACTS
from ..engine.errors import ExportError
from ..engine.manifest import Arithmetic, Component, Verification
from .graph import TORCH_TYPES
from .graph_cache import exporter_fingerprint, traced
from .lint import lint, parse_with_tensorrt_rtx
from .part import Part
from .progress import ComponentReport, Progress
from .request import ExportRequest
from .staging import Record, Staging
from .verification import verify
from .weights_file import WEIGHTS_NAME, stored_array, write_component

_TABLE_NAME = "token_embedding.npy"


def stored_bytes(part: Part, request: ExportRequest) -> int:
    """How much disk the weights of a part take."""
    size = TORCH_TYPES[request.weights].itemsize
    return size * (part.numbers + sum(int(np.prod(shape)) for shape in part.table.values()))


def make_component(
    part: Part, staging: Staging, request: ExportRequest, progress: Progress
) -> tuple[Record, ComponentReport]:
    """One component: traced, written, checked, verified; or what an earlier run left of it."""
    start = time.perf_counter()
    peak_memory.restart()
    made_from = part.made_from(request.weights)
    described = [
        made_from,
        part.source.model_dump(),
        [lora.model_dump() for lora in part.loras],
        exporter_fingerprint(),
        sorted(request.arithmetics),
        request.verify,
    ]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    record = staging.finished(part.name, key)
    made, parsed = record is None, False
    if record is None:
        progress.begin(part.name, stored_bytes(part, request))
        directory = staging.begin(part.name)
        graphs = _write(part, directory, request, progress)
        parsed = _check_types(part, graphs, progress)
        verification = _verified(part, graphs, request, progress) if request.verify else []
        component = _component(part, graphs, made_from, verification)
        record = staging.finish(part.name, key, component)
    size = record.files[f"{part.name}/{WEIGHTS_NAME}"].bytes
    return record, ComponentReport(
        name=part.name,
        made=made,
        seconds=time.perf_counter() - start if made else 0.0,
        peak_bytes=peak_memory.peak_bytes() if made else 0,
        bytes=size,
        verification=tuple(record.component.verification),
        parsed_by_tensorrt_rtx=parsed,
    )


def _write(
    part: Part, directory: Path, request: ExportRequest, progress: Progress
) -> dict[Arithmetic, Path]:
    graphs = {}
    for arithmetic in request.arithmetics:
        progress.stage(part.name, f"tracing {arithmetic}")
        graphs[arithmetic] = traced(part.architecture(), arithmetic)
    progress.stage(part.name, "writing weights")
    stored = TORCH_TYPES[request.weights]
    for key in part.table:
        np.save(directory / _TABLE_NAME, stored_array(part.weights, key, stored))
    write_component(
        graphs,
        len(CONTRACTS[part.role].inputs),
        part.weights,
        stored,
        directory,
        lambda written: progress.advance(part.name, written),
    )
    del graphs
    gc.collect()
    return {arithmetic: directory / f"{arithmetic}.onnx" for arithmetic in request.arithmetics}


def _check_types(part: Part, graphs: dict[Arithmetic, Path], progress: Progress) -> bool:
    parsed = False
    for arithmetic, path in graphs.items():
        progress.stage(part.name, f"checking types of {arithmetic}")
        lint(path, part.role, arithmetic)
        if arithmetic == "float16":
            progress.stage(part.name, "parsing with TensorRT-RTX")
            parsed = parse_with_tensorrt_rtx(path, part.role)
    return parsed


def _verified(
    part: Part, graphs: dict[Arithmetic, Path], request: ExportRequest, progress: Progress
) -> list[Verification]:
    progress.stage(part.name, "verifying")
    found = verify(part.architecture(), part.weights, TORCH_TYPES[request.weights], graphs)
    failed = [each for each in found if not each.passed]
    if failed:
        worst = min(failed, key=lambda each: each.psnr_db)
        raise ExportError(
            f"{part.name}: the {worst.arithmetic} graph differs from PyTorch by "
            f"{worst.max_abs_error:.3g} ({worst.psnr_db:.1f} dB); report this with your torch and "
            "onnxruntime versions, or look at the graph with --no-verify"
        )
    return found


def _component(
    part: Part,
    graphs: dict[Arithmetic, Path],
    made_from: str,
    verification: list[Verification],
) -> Component:
    return Component(
        role=part.role,
        graphs={arithmetic: f"{part.name}/{path.name}" for arithmetic, path in graphs.items()},
        weights=f"{part.name}/{WEIGHTS_NAME}",
        token_embedding=f"{part.name}/{_TABLE_NAME}" if part.table else None,
        source=part.source,
        made_from=made_from,
        loras=list(part.loras),
        verification=verification,
    )
