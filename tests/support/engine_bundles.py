"""Bundles to build engines of, and builders that are quick because they only pretend."""

import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightfill.engine.bundle import DEMO_BUNDLE, Bundle
from lightfill.engine.engine_key import EngineKey, sizes_for
from lightfill.engine.engine_record import EngineRecord
from lightfill.engine.engine_store import RECORD, EngineStore
from lightfill.export.engine_order import Order, Outcome
from lightfill.export.engines import BuildRequest

VERSION = "1.7.1.116"


def copied_demo(directory: Path) -> Bundle:
    """The embedded bundle, where engines may be written beside it."""
    root = directory / "demo"
    shutil.copytree(DEMO_BUNDLE, root, ignore=shutil.ignore_patterns("engines"))
    return Bundle.open(root)


def request_of(bundle: Bundle, **changes: Any) -> BuildRequest:
    """One quick component at one size for one GPU, unless told otherwise."""
    options: dict[str, Any] = {
        "flavour": "rtx",
        "version": VERSION,
        "targets": ("sm89",),
        "sizes": [(512, 512)],
        "components": ["text_encoder"],
    }
    return BuildRequest(bundle=bundle, **options | changes)


def pretended(order: Order, content: bytes | None = None) -> Outcome:
    """Write a plan of a few bytes, as the process that builds would."""
    content = content or order.key.digest.encode() * 8
    with order.plan.open("xb") as file:
        half = len(content) // 2
        file.write(content[:half])
        file.flush()
        file.write(content[half:])
    return Outcome(
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        activation_bytes=1,
        peak_bytes=1,
        layers={},
        log=[],
        made_with={},
    )


class Pretending:
    """Stands in for `Builders.run`, and remembers what was ordered."""

    def __init__(self) -> None:
        self.orders: list[Order] = []

    def run(self, order: Order, on_phase: Callable[[str, float], None]) -> Outcome:
        on_phase("Building engine", 0.5)
        self.orders.append(order)
        return pretended(order)


def key_of(bundle: Bundle, component: str = "unet", **changes: Any) -> EngineKey:
    """A key that fits the bundle, with some of its fields changed."""
    part = bundle.component(component)
    files = bundle.manifest.files
    fields: dict[str, Any] = {
        "component": component,
        "graph_sha256": files[part.graphs["float16"]].sha256,
        "weights_sha256": files[part.weights].sha256,
        "flavour": "rtx",
        "version": VERSION,
        "targets": ("sm89",),
        "sizes": sizes_for(part.role, 512, 512),
    }
    return EngineKey(**fields | changes)


def put(
    store: EngineStore,
    key: EngineKey,
    content: bytes = b"a plan",
    made: datetime = datetime(2026, 1, 1, tzinfo=UTC),
) -> Path:
    """Lay an engine into a store as a build would; returns its plan."""
    plan = store.path(key)
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_bytes(content)
    record = EngineRecord(
        key=key, digest=key.digest, bytes=len(content), activation_bytes=1 << 20, seconds=1.5,
        sha256=hashlib.sha256(content).hexdigest(), peak_bytes=1 << 30, made=made,
    )  # fmt: skip
    plan.with_suffix(RECORD).write_text(record.model_dump_json())
    return plan
