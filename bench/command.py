"""What `lightfill bench` does with its options: measure, print Markdown, write files."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from typing import Any

from ..engine.atomic_write import write_atomically
from ..engine.bundle import Bundle
from ..engine.checks import whole_number
from ..engine.errors import InvalidInput
from ..engine.output_paths import check_writable
from ..engine.request import fixed_image_size
from ..scheduler import effective_steps
from . import artefact, graph_costs, peer_list, report
from .compare import compare as compared
from .latency import OnPart, Plan, check, measure
from .own_side import EngineOptions
from .peer_runs import checkpoint_of
from .peer_runs import compared as measured_peers
from .sweep import measure as measured_sweep
from .workload import Workload, sample_files

MAX_RUNS = 100_000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The request, as it was typed."""

    image_size: str | None
    steps: int
    strength: float
    batch: int
    image: Path | None
    mask: Path | None


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much to measure."""

    runs: int
    warmups: int
    cold_starts: int

    def __post_init__(self) -> None:
        """Raise InvalidInput for what measures nothing."""
        whole_number("runs", self.runs, 1, MAX_RUNS)
        whole_number("warmup", self.warmups, 1, MAX_RUNS)
        whole_number("cold_starts", self.cold_starts, 0, MAX_RUNS)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where results go beside the screen."""

    json: Path | None
    plots: Path | None


def latency(
    options: EngineOptions,
    asked: Asked,
    amount: Amount,
    outputs: Outputs,
    peers: str | None,
    checkpoint: Path | None,
    on_part: OnPart,
) -> None:
    """One configuration, and peers if they were named."""
    chosen = [] if peers is None else peer_list.chosen(peers, options.device)
    folder = checkpoint_of(options, checkpoint) if chosen else None
    _check_outputs(outputs)
    with _workload(options, asked) as workload:
        check(options, workload)
        plan = Plan(
            runs=amount.runs,
            warmups=amount.warmups,
            cold_starts=amount.cold_starts,
            second_prompts=min(amount.runs, 3),
        )
        picture = None if outputs.json is None else outputs.json.with_suffix(".png")
        found = measure(options, workload, plan, picture, on_part)
        if folder is not None:
            results = measured_peers(
                options, workload, chosen, folder, amount.runs, amount.warmups, on_part
            )
            for result in results:  # minutes each at full size: one that is done is kept
                found = found.model_copy(update={"peers": [*found.peers, result]})
                if outputs.json is not None:
                    artefact.write(outputs.json, found)
    _finish(found, report.latency(found), outputs)


def sweep(
    options: EngineOptions,
    asked: Asked,
    amount: Amount,
    outputs: Outputs,
    varies: str,
    on_part: OnPart,
) -> None:
    """How cost grows with one thing."""
    _check_outputs(outputs)
    with _workload(options, asked) as workload:
        check(options, workload)
        found = measured_sweep(options, workload, varies, amount.runs, amount.warmups, on_part)
    _finish(found, report.sweep(found), outputs)


def compare(first: Path, second: Path) -> None:
    """Two artefacts side by side."""
    print(compared(first, second), end="")


def predict(
    gpu: str,
    bundle: Path | None,
    image_size: str | None,
    steps: int,
    strength: float,
    json_file: Path | None,
) -> None:
    """A GPU nobody has measured: SDXL's costs, or those of a bundle's float16 graphs."""
    from .predict import markdown, predicted

    size = fixed_image_size(image_size or "square_hd")
    costs = None
    if bundle is not None:
        opened = Bundle.open(bundle)
        costs = graph_costs.of_bundle(opened, "float16", size, steps, batch=1)
    found = predicted(gpu, size, effective_steps(steps, strength), costs)
    print(markdown(found), end="")
    if json_file is not None:
        content = {**found.as_json(), "created": datetime.now(UTC).isoformat()}
        _write(json_file, (dumps(content, indent=1) + "\n").encode())


@contextmanager
def _workload(options: EngineOptions, asked: Asked) -> Iterator[Workload]:
    """The request with its files, which are made for as long as they are needed."""
    natural = Bundle.open(options.bundle).manifest.natural_size
    size = fixed_image_size(asked.image_size or f"{natural}x{natural}")
    with tempfile.TemporaryDirectory(prefix="lightfill-bench-") as directory:
        if asked.image is None or asked.mask is None:
            image, mask = sample_files(Path(directory))
        else:
            image, mask = asked.image.resolve(), asked.mask.resolve()
        yield Workload(
            image=image,
            mask=mask,
            size=size,
            steps=asked.steps,
            strength=asked.strength,
            batch=asked.batch,
        )


def _check_outputs(outputs: Outputs) -> None:
    """Before hours are spent."""
    if outputs.json is not None:
        check_writable(outputs.json)
    if outputs.plots is not None:
        from .plots import require_matplotlib

        require_matplotlib()
        try:
            outputs.plots.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                "plot", f"{outputs.plots} cannot be made: {error.strerror}; choose another path"
            ) from error


def _finish(found: Any, markdown: str, outputs: Outputs) -> None:
    print(markdown, end="")
    stem = "bench" if outputs.json is None else outputs.json.stem
    if outputs.json is not None:
        artefact.write(outputs.json, found)
        _write(outputs.json.with_suffix(".md"), markdown.encode())
    if outputs.plots is not None:
        from . import plots

        draw = plots.latency if isinstance(found, artefact.Latency) else plots.sweep
        draw(found, outputs.plots, stem)


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InvalidInput(
            "json", f"{path} cannot be written: {error.strerror}; choose another path"
        ) from error
