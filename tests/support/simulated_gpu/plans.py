"""Engines of the simulated machine, put into a store as a builder puts real ones there."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from lightfill.engine.bundle import Bundle
from lightfill.engine.components import Tensor, symbol_of
from lightfill.engine.engine_key import EngineKey, is_built, sizes_for
from lightfill.engine.engine_store import EngineRecord, EngineStore, Runtime, StoredEngine

from .tensorrt import onnx_session

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}
_MADE = datetime(2026, 1, 1, tzinfo=UTC)
WEIGHTS, ACTIVATIONS = 1 << 16, 1 << 12
"""Bytes an engine pretends to need, unless it is told otherwise."""


def add_engines(
    store: EngineStore,
    runtime: Runtime,
    size: tuple[int, int],
    *,
    batches: Sequence[int] = (1,),
    **pretended: int,
) -> list[StoredEngine]:
    """Engines of every component for one size in pixels."""
    added: dict[str, StoredEngine] = {}
    for name, component in store.bundle.manifest.components.items():
        if is_built(component.role):
            for batch in batches:
                sizes = sizes_for(component.role, *size, batch=batch)
                engine = add_engine(store, runtime, name, sizes, **pretended)
                added[str(engine.plan)] = engine
    return list(added.values())


def add_engine(
    store: EngineStore,
    runtime: Runtime,
    component: str,
    sizes: Mapping[str, int],
    *,
    weights: int = WEIGHTS,
    activations: int = ACTIVATIONS,
    content: bytes | None = None,
    age: int = 0,
    **changes: Any,
) -> StoredEngine:
    """One engine; `changes` are made to its key, `content` replaces its plan."""
    bundle = store.bundle
    graph = bundle.component(component).graphs["float16"]
    key = EngineKey(
        **{
            "component": component,
            "graph_sha256": bundle.manifest.files[graph].sha256,
            "weights_sha256": bundle.manifest.files[bundle.component(component).weights].sha256,
            "flavour": runtime.flavour,
            "version": runtime.version,
            "targets": (runtime.key_target,),
            "sizes": dict(sizes),
            **changes,
        }
    )
    plan = content or _plan(bundle, component, sizes, weights, activations)
    record = EngineRecord(
        key=key,
        digest=key.digest,
        bytes=len(plan),
        sha256=hashlib.sha256(plan).hexdigest(),
        activation_bytes=activations,
        seconds=0.0,
        peak_bytes=0,
        made=_MADE - timedelta(days=age),
    )
    path = store.path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plan)
    path.with_suffix(".json").write_text(record.model_dump_json(), encoding="utf-8")
    return StoredEngine(path, record, None)


def _plan(
    bundle: Bundle, component: str, sizes: Mapping[str, int], weights: int, activations: int
) -> bytes:
    """A plan of exactly `weights` bytes, as a real one's length is about its weights'."""
    graph = bundle.graph(component, "float16")
    session = onnx_session(str(graph))
    contract = bundle.contract(component)
    content = {
        "component": component,
        "graph": str(graph),
        "inputs": _tensors(contract.inputs, session.get_inputs(), sizes),
        "outputs": _tensors(contract.outputs, session.get_outputs(), sizes),
        "weights_bytes": weights,
        "activation_bytes": activations,
    }
    return json.dumps(content).encode().ljust(weights)


def _tensors(
    contract: Mapping[str, Tensor], values: Sequence[Any], sizes: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    found = {}
    for value in values:
        shape = []
        for dimension, actual in zip(contract[value.name].shape, value.shape, strict=True):
            if isinstance(dimension, str):
                factor, symbol = symbol_of(dimension)
                shape.append(factor * sizes[symbol])
            else:
                shape.append(int(actual if dimension is None else dimension))
        found[value.name] = {"dtype": np.dtype(_DTYPES[value.type]).name, "shape": shape}
    return found
