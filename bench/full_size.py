"""`make bench-export`: SDXL at full size on this machine, from synthetic weights to pictures.

Exports the exact SDXL architecture with seeded random weights, then runs whole requests on the CPU.
Every step is a process of its own, whose wall time and largest resident memory are taken from the
system. The table in docs/performance.md is written by this program and by nothing else.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import marked_page

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
NAME = "full-size"
BEGIN, END = marked_page.markers(NAME)
SIZES = ("square", "square_hd")


@dataclass(frozen=True)
class Run:
    """One process: seconds of wall time, and its and its children's largest resident memory.

    Linux hands a child its parent's peak, so this program stays small.
    """

    command: str
    seconds: float
    peak_bytes: int
    output: str


def main() -> None:
    """Measure, print, and with --write put the table into docs/performance.md."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="full-size-", dir=arguments.directory) as directory:
        bundle = Path(arguments.bundle or Path(directory) / "sdxl")
        runs = []
        if not bundle.exists():
            cold = {"XDG_CACHE_HOME": str(Path(directory) / "cache")}  # no trace of an earlier run
            asked = ("export", "--synthetic", "sdxl", "--steps", "4", "--out", bundle)
            runs.append(_measured(*asked, environment=cold))
        runs += [_inpaint(bundle, size, Path(directory)) for size in SIZES]
        manifest = json.loads((bundle / "lightfill.json").read_text())
    page = table(runs, manifest)
    print(page)
    if arguments.write:
        marked_page.write(PAGE, NAME, page)


def table(runs: list[Run], manifest: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    lines = [
        f"{_machine()}, {datetime.now(UTC):%Y-%m-%d}; each line one run.",
        "",
        "| command | wall time | peak resident memory |",
        "|---|---|---|",
    ]
    lines += [
        f"| `{run.command}` | {run.seconds:.0f} s | {run.peak_bytes / 1e9:.2f} GB |" for run in runs
    ]
    for run in runs:
        if run.output.startswith("{"):
            timings = json.loads(run.output)["timings"]
            steps = ", ".join(f"{step:.1f}" for step in timings.pop("unet"))
            others = ", ".join(f"{name} {value:.1f}" for name, value in timings.items())
            lines += ["", f"Seconds inside `{run.command}`: UNet {steps}; {others}."]
    lines += [
        "",
        "| component | weights | graph | sizes | max error | PSNR |",
        "|---|---|---|---|---|---|",
    ]
    for name, component in manifest["components"].items():
        size = manifest["files"][component["weights"]]["bytes"]
        for each in component.get("verification", []):
            sizes = " ".join(f"{symbol} {count}" for symbol, count in each["sizes"].items())
            lines.append(
                f"| {name} | {size / 1e6:.0f} MB | {each['arithmetic']} | {sizes} "
                f"| {each['max_abs_error']:.2g} | {each['psnr_db']:.1f} dB |"
            )
    return "\n".join(lines) + "\n"


def _inpaint(bundle: Path, size: str, directory: Path) -> Run:
    examples = ROOT / "examples"
    return _measured(
        "inpaint", "--bundle", bundle, "--image", examples / "coffee.png",
        "--mask", examples / "coffee-mask.png", "--prompt", "a green ball", "--seed", "1",
        "--image-size", size, "--output", directory / f"{size}.png", "--json",
    )  # fmt: skip


def _measured(*arguments: object, environment: Mapping[str, str] | None = None) -> Run:
    """Run `lightfill ...`; a failure ends the benchmark with the command's own message."""
    command = [str(Path(sys.executable).parent / "lightfill"), *map(str, arguments)]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        variables = {**os.environ, **(environment or {})}
        process = subprocess.Popen(command, stdout=output, cwd=ROOT, env=variables)  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # Popen would wait for it again
        seconds = time.perf_counter() - start
        output.seek(0)
        printed = output.read().strip()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    shown = [str(a) if not isinstance(a, Path) else a.name for a in arguments]
    return Run(
        f"lightfill {' '.join(shown[:1])} {_essential(shown)}",
        seconds,
        usage.ru_maxrss * unit,
        printed,
    )


def _essential(shown: list[str]) -> str:
    kept = {"--synthetic", "--steps", "--image-size"}
    pairs = pairwise(shown)
    return " ".join(f"{option} {value}" for option, value in pairs if option in kept)


def _machine() -> str:
    info = ""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = next(
            line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line
        )
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    vectors = "with" if "avx512f" in info else "without"
    return f"{os.cpu_count()} cores of an {model} {vectors} AVX-512, {memory:.0f} GB"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/performance.md"
    )
    parser.add_argument("--bundle", type=Path, help="an export that exists; only requests are run")
    parser.add_argument("--directory", type=Path, help="where 7 GB are free [default: temporary]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
