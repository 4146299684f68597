"""`make bench`, `make bench-peers`, `make bench-full`: fixed sets of measurements, kept as files.

Each writes JSON, a Markdown table, the picture and SVG plots into bench/results, one measurement
after another; what is there already from an earlier run is measured anew. The full-size suite takes
hours: stopped at any moment, the same command goes on with the measurement it was at.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from ..engine import memory
from ..engine.bundle import DEMO_BUNDLE, Bundle
from ..engine.errors import DeviceUnavailable
from ..engine.precision import is_bfloat16, is_int8
from ..engine.quantized_store import QuantizedStore
from . import host_overhead
from .suite_progress import SuiteProgress

RESULTS = Path(__file__).parent / "results"
EXAMPLES = Path(__file__).parents[1] / "examples"
SUITES = ("demo", "demo-peers", "sdxl")
_DEMO = ("--image-size", "256x256", "--steps", "4")
_OPENVINO = {"openvino": None, "bf16": "bf16", "int8-bf16": "int8+bf16"}
"""By the end of an artefact's name: the precision; the fastest last, which is set against peers."""
_SWEEPS = ("image_size", "batch", "steps", "concurrency")


def main() -> None:
    """Run one suite; a measurement that fails ends it with its own message."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=int, help="requests of each measurement [default: 10 or 3]")
    parser.add_argument("--directory", type=Path, help="of the full-size bundle and its checkpoint")
    asked = parser.parse_args()
    if asked.suite == "sdxl":
        sdxl(asked.results, asked.runs or 3, asked.directory or Path("build/bench"))
    elif asked.suite == "demo":
        demo(asked.results, asked.runs or 10)
    else:
        demo_peers(asked.results, asked.runs or 10)


def demo(results: Path, runs: int) -> None:
    """The embedded model: a request, how cost grows, and what the host costs alone."""
    _bench(results, "demo", runs, *_DEMO)
    for varies in _SWEEPS:
        _bench(results, f"demo-by-{varies}", runs, *_DEMO, "--sweep", varies)
    host = ("--device", "null", "--image-size", "square_hd", "--steps", "8", "--strength", "1")
    _bench(results, "host-overhead", runs, *host)
    host_overhead.main()


def demo_peers(results: Path, runs: int) -> None:
    """The embedded model, with every peer on the same processor."""
    _bench(results, "demo", runs, *_DEMO, "--peers", "all")
    in_bfloat16 = _runnable(DEMO_BUNDLE).get("-bf16")
    if in_bfloat16 is not None:
        _bench(results, "demo-bf16", runs, *_DEMO, *in_bfloat16, "--peers", "all")


def sdxl(results: Path, runs: int, directory: Path) -> None:
    """SDXL's architecture with synthetic weights: made once in `directory`, measured at two sizes.

    The checkpoint takes 7 GB, the bundle another 7; what peers make of it comes on top.
    """
    checkpoint, bundle = directory / "sdxl-checkpoint", directory / "sdxl"
    progress = SuiteProgress(directory / "measured.json")
    if not (checkpoint / "model_index.json").exists():
        _run(sys.executable, "-m", "lightfill.export.synthetic_checkpoint", str(checkpoint))
    if not bundle.exists():
        _lightfill("export", "--base", checkpoint, "--steps", "1,2,4,8", "--out", bundle)
    common = ("--bundle", bundle, "--checkpoint", checkpoint, "--warmup", "1", "--cold-starts", "1")

    def measure(name: str, runs: int, *options: object) -> None:
        if name in progress:
            print(f"== {name} was measured before this run was stopped", flush=True)
            return
        _bench(results, name, runs, *options)
        progress.add(name)

    runnable = _runnable(bundle)
    fastest = list(runnable)[-1]
    # At 512 everything fits into 24 GB, as peers hold everything; at 1024 the default decides.
    sizes = {512: ("--no-low-memory",), 1024: ()}
    for edge, memory_mode in sizes.items():
        for name, how in runnable.items():
            if (edge, name) != (512, fastest):
                size = ("--image-size", f"{edge}x{edge}", *memory_mode)
                measure(f"sdxl-{edge}{name}", runs, *common, *size, *how)
    for varies in ("image_size", "steps"):
        growth = ("--image-size", "square", "--steps", "4", "--sweep", varies)
        measure(f"sdxl-by-{varies}", 1, *common, *growth)
    # Last, so that a run that is stopped has everything else.
    size = ("--image-size", "512x512", *sizes[512])
    measure(f"sdxl-512{fastest}", runs, *common, *size, *runnable[fastest], "--peers", "all")
    progress.finish()


def _runnable(bundle: Path) -> dict[str, tuple[object, ...]]:
    """How a bundle can be run here, by the end of an artefact's name; the fastest last."""
    runnable: dict[str, tuple[object, ...]] = {"": ()}
    for name, precision in _OPENVINO.items():
        if reason := _why_not(bundle, precision):
            print(f"== openvino {precision or 'float32'} is not measured: {reason}", flush=True)
            continue
        chosen = ("--precision", precision) if precision else ()
        runnable[f"-{name}"] = ("--device", "openvino", *chosen)
    return runnable


def _why_not(bundle: Path, precision: str | None) -> str | None:
    """Why OpenVINO cannot hold all of a bundle here, or not run it in a precision."""
    opened = Bundle.open(bundle)
    if is_bfloat16(precision):
        from ..engine.sessions.openvino import require_bfloat16

        try:
            require_bfloat16()
        except DeviceUnavailable as error:
            return str(error)
    if is_int8(precision):
        unet = opened.unet(4).component
        if QuantizedStore(opened).record(unet) is None:
            return f"`lightfill quantize {bundle}` makes what it needs, with more than 24 GB"
    needed = memory.needed_bytes(opened, "openvino", precision)
    if needed > memory.available_bytes():
        return f"it needs {needed / 1e9:.0f} GB of memory"
    return None


def _bench(results: Path, name: str, runs: int, *options: object) -> None:
    print(f"== {name}", flush=True)
    photo = ("--image", EXAMPLES / "coffee.png", "--mask", EXAMPLES / "coffee-mask.png")
    outputs = ("--json", results / f"{name}.json", "--plot", results)
    _lightfill("bench", *photo, "--runs", runs, *options, *outputs)


def _lightfill(*arguments: object) -> None:
    _run(sys.executable, "-m", "lightfill", *map(str, arguments))


def _run(*command: str) -> None:
    status = subprocess.run(command, check=False).returncode  # noqa: S603
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
