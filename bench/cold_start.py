"""From nothing to a picture: `lightfill inpaint` in processes of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..engine.errors import SessionError
from .artefact import ColdStart
from .own_side import EngineOptions
from .spread import Spread
from .workload import Workload


def measured(options: EngineOptions, workload: Workload, times: int) -> ColdStart:
    """Start `times` processes, one after another. Peak memory is the largest of theirs."""
    with tempfile.TemporaryDirectory(prefix="lightfill-bench-") as directory:
        found = [_once(options, workload, Path(directory) / "out.png") for _ in range(times)]
    return ColdStart(
        seconds=Spread.of([seconds for seconds, _, _ in found]),
        before=Spread.of([seconds - request for seconds, request, _ in found]),
        peak_bytes=max(peak for _, _, peak in found),
    )


def _once(options: EngineOptions, workload: Workload, output: Path) -> tuple[float, float, int]:
    """Seconds in all, seconds of the request itself, and the process's peak memory in bytes."""
    command = [sys.executable, "-m", "lightfill", *_arguments(options, workload, output)]
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as words:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=words)  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # Popen would wait for it again
        printed.seek(0)
        words.seek(0)
        if process.returncode:
            raise SessionError(f"`lightfill inpaint` failed: {words.read().strip()}")
        request = json.loads(printed.read())["timings"]["total"]
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, request, usage.ru_maxrss * unit


def _arguments(options: EngineOptions, workload: Workload, output: Path) -> list[str]:
    given: dict[str, object] = {
        "image": workload.image,
        "mask": workload.mask,
        "prompt": workload.prompt,
        "output": output,
        "image-size": "{}x{}".format(*workload.size),
        "steps": workload.steps,
        "strength": workload.strength,
        "seed": workload.seed,
        "num-images": workload.batch,
        "device": options.device,
        "precision": options.precision,
        "bundle": options.bundle,
        "threads": options.threads,
        "engines": options.engines,
    }
    arguments = ["inpaint", "--json"]
    for name, value in given.items():
        if value is not None:
            arguments += [f"--{name}", str(value)]
    if options.build_missing:
        arguments.append("--build-missing")
    if options.low_memory is not None:
        arguments.append("--low-memory" if options.low_memory else "--no-low-memory")
    return arguments
