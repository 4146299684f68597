"""`python -m lightfill.bench.readme_table`: the README's benchmark table, from committed results.

Nothing is measured here: the table is what the JSON files of bench/results say, so that it can be
checked against them, and is written by this program alone. Each row is one artefact.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..engine.precision import PRECISIONS
from . import marked_page
from .artefact import Latency, StageEntry, read

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "README.md"
NAME = "bench"
_DEVICES = ("", "-openvino", "-bf16", "-int8-bf16")
SHOWN = (
    "demo",
    "demo-bf16",
    *(f"sdxl-{edge}{device}" for edge in (512, 1024) for device in _DEVICES),
)
"""Artefacts in the table, in this order; those that have not been measured are left out."""


def main() -> None:
    """Print the table, and with --write put it into README.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    part = table(committed(asked.results))
    print(part, end="")
    if asked.write:
        marked_page.write(asked.page, NAME, part)


def committed(results: Path = RESULTS) -> list[Latency]:
    """The artefacts that are there, in the table's order."""
    paths = [results / f"{name}.json" for name in SHOWN]
    return [read(path, Latency) for path in paths if path.exists()]


def table(found: Sequence[Latency]) -> str:
    """Milliseconds by stage, the share of the device's limit, and the peers' ratios."""
    columns = ("bundle, device, size", "text", "VAE encode", "UNet", "VAE decode", "host", "total")
    lines = [
        f"| {' | '.join(columns)} | p90 | of the device's limit |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_row, found),
    ]
    ratios = [line for each in found for line in _ratios(each)]
    if ratios:
        lines += ["", "Times of peers over lightfill's, pair by pair, medians:", "", *ratios]
    places = (f"{each.machine['machine']}, {each.created:%Y-%m-%d}" for each in found)
    lines += ["", f"Milliseconds, medians. Measured on: {'; '.join(dict.fromkeys(places))}."]
    return "\n".join(lines) + "\n"


def _row(found: Latency) -> str:
    stages = {stage.name: stage for stage in found.stages}
    host = sum(
        stages[name].seconds.median
        for name in ("fetch", "prepare", "composite", "safety", "encode", "overhead")
    )
    width, height = found.workload["size"]
    share = "-" if found.share is None else f"{100 * found.share:.0f} %"
    cells = [
        f"`{found.engine['bundle']}`, {_how(found)}, {width}x{height}",
        _ms(stages["text"].seconds.median),
        _ms(stages["vae_encode"].seconds.median),
        _unet(stages["unet"], found.effective_steps),
        _ms(stages["vae_decode"].seconds.median),
        _ms(host),
        f"**{_ms(found.total.median)}**",
        _ms(found.total.p90),
        share,
    ]
    return f"| {' | '.join(cells)} |"


def _how(found: Latency) -> str:
    """The device, and what it computes in where that is less than float32."""
    reduced = [found.engine["arithmetic"]] if found.engine["arithmetic"] in PRECISIONS else []
    return " ".join([found.engine["device"], *reduced])


def _unet(stage: StageEntry, steps: int) -> str:
    each = stage.per_call or stage.seconds
    return f"{steps} x {_ms(each.median)}"


def _ratios(found: Latency) -> list[str]:
    width, height = found.workload["size"]
    return [
        f"- {peer.name}, {width}x{height}, against {_how(found)}: {peer.ratios.median:.2f}"
        for peer in found.peers
        if peer.ratios is not None
    ]


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1000
    return f"{milliseconds:,.0f}" if milliseconds >= 10 else f"{milliseconds:.1f}"


if __name__ == "__main__":
    main()
