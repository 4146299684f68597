"""`python -m lightfill.bench.node_profile`: where a component's time goes on the CPU, by operator.

ONNX Runtime's own profile of one component at one size: seconds by operator, medians over the runs,
beside the processor's measured limit. Evidence for what limits a device; whole requests are
`lightfill bench`'s.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..engine.bundle import Bundle
from ..engine.checks import whole_number
from ..engine.components import PIXELS_PER_LATENT, Contract, symbol_of
from ..engine.request import fixed_image_size
from .limits import host_limit

_KERNEL = "_kernel_time"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, help="[default: the embedded model]")
    parser.add_argument("--component", default="unet")
    parser.add_argument("--image-size", default="512x512")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    size = fixed_image_size(asked.image_size)
    bundle = Bundle.open(asked.bundle)
    by_operator = profiled(bundle, asked.component, size, asked.runs)
    limit = host_limit()
    total = sum(by_operator.values())
    print(f"{asked.component} at {size[0]}x{size[1]}, {asked.runs} runs, limit {limit.sources}\n")
    print("| operator | seconds | share |\n|---|---|---|")
    for operator, seconds in sorted(by_operator.items(), key=lambda item: -item[1]):
        if seconds >= 0.005 * total:
            print(f"| {operator} | {seconds:.3f} | {100 * seconds / total:.0f} % |")
    print(f"| all | {total:.3f} | |")


def profiled(bundle: Bundle, component: str, size: tuple[int, int], runs: int) -> dict[str, float]:
    """Seconds of each operator in one run, the median of `runs` after one that warms up."""
    import onnxruntime as ort

    whole_number("runs", runs, 1, 1000)
    settings = ort.SessionOptions()
    settings.enable_profiling = True
    settings.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="lightfill-profile-") as directory:
        settings.profile_file_prefix = str(Path(directory) / "profile")
        path = bundle.graph(component, "float32")
        session: Any = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        feed = _feed(session, bundle.contract(component), size)
        for _ in range(runs + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    each = list(_by_run(events))[1:]
    operators = {operator for run in each for operator in run}
    return {operator: median(run.get(operator, 0.0) for run in each) for operator in operators}


def _by_run(events: list[Mapping[str, Any]]) -> Iterator[dict[str, float]]:
    """One table per run: a run's own event comes after those of its nodes."""
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if event["name"].endswith(_KERNEL):
            seconds[event["args"]["op_name"]] += event["dur"] / 1e6
        elif event["name"] == "model_run":
            yield dict(seconds)
            seconds.clear()


def _feed(
    session: Any, contract: Contract, size: tuple[int, int]
) -> dict[str, np.ndarray[Any, Any]]:
    """Normal numbers, one picture; times do not depend on values. Widths are the graph's own."""
    width, height = (side // PIXELS_PER_LATENT for side in size)
    sizes = {"batch": 1, "height": height, "width": width}
    draw = np.random.Generator(np.random.PCG64(0))
    feed = {}
    for value in session.get_inputs():
        wanted = contract.inputs[value.name]
        shape = []
        for dimension, own in zip(wanted.shape, value.shape, strict=True):
            factor, symbol = symbol_of(dimension) if isinstance(dimension, str) else (1, None)
            shape.append(own if symbol is None else factor * sizes[symbol])
        kind = np.int64 if wanted.element == "int64" else np.float32
        feed[value.name] = draw.standard_normal(shape).astype(kind)
    return feed


if __name__ == "__main__":
    main()
