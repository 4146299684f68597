"""A benchmark's artefact, measured once with the embedded model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_requests import workload
from run_directory import directory_of, made_once

from lightfill.bench import latency
from lightfill.bench.artefact import Latency, read, write
from lightfill.bench.latency import Plan
from lightfill.bench.own_side import EngineOptions


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Latency:
    """What `lightfill bench` measures, with few requests."""
    path = directory_of(tmp_path_factory) / "bench" / "measured.json"
    path.parent.mkdir(exist_ok=True)
    with made_once(path) as missing:
        if missing:
            plan = Plan(runs=3, warmups=1, cold_starts=1, second_prompts=1, edge=512)
            picture = path.with_suffix(".png")
            write(path, latency.measure(EngineOptions(), workload(), plan, picture))
    return read(path, Latency)


@pytest.fixture
def artefact_at(measured: Latency, tmp_path: Path) -> Callable[..., Path]:
    """A file with the measured artefact, parts of it replaced."""

    def at(name: str, **changes: Any) -> Path:
        content = json.loads(measured.model_dump_json()) | changes
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return at
