"""`python -m lightfill.bench.engine_sizes BUNDLE`: what engines take, from real ones' records.

Reads the records that `lightfill build` wrote, and writes the table of docs/tensorrt.md. The table
is written by this program and by nothing else.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..engine.bundle import Bundle
from ..engine.engine_record import EngineRecord
from ..engine.engine_store import EngineStore
from ..engine.request import IMAGE_SIZES
from . import marked_page

PAGE = Path(__file__).parents[1] / "docs" / "tensorrt.md"
NAME = "engine-sizes"
BEGIN, END = marked_page.markers(NAME)
_PRESETS = {size: name for name, size in IMAGE_SIZES.items()}

Size = tuple[int, int] | None


def main() -> None:
    """Print the table, and with --write put it into docs/tensorrt.md."""
    arguments = _arguments()
    bundle = Bundle.open(arguments.bundle)
    store = EngineStore.of(bundle, arguments.engines)
    records = [each.record for each in store.listed() if each.record and not each.problem]
    page = tables(records, bundle.manifest.name)
    print(page)
    if arguments.write:
        marked_page.write(PAGE, NAME, page)


def tables(records: Sequence[EngineRecord], name: str) -> str:
    """Disk and device memory by size, then every engine, as Markdown.

    A size needs its own engines and those that no size changes. Device memory: plans hold the
    weights; activations share one block, so that the largest counts. Of several UNets, one.
    """
    groups = {(record.key.flavour, record.key.version, record.key.targets) for record in records}
    lines = [f"Engines of the bundle `{name}`, one picture at a time unless a batch is named."]
    for group in sorted(groups):
        flavour, version, targets = group
        of_group = [r for r in records if _group(r) == group]
        lines += ["", f"**{flavour} {version}, {', '.join(targets)}**"]
        if sizes := _sizes(of_group):
            lines += [
                "",
                "| image size | engines | plans on disk | device memory: plans + activations |",
                "|---|---|---|---|",
            ]
            lines += [_size_row(size, of_group) for size in sizes]
        lines += [
            "",
            "| engine | size | plan | activations | build time | build's peak memory |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_engine_row(record) for record in sorted(of_group, key=_order)]
    return "\n".join(lines) + "\n"


def _size_row(size: tuple[int, int], records: Sequence[EngineRecord]) -> str:
    needed = [
        record
        for record in records
        if record.key.pixels in (None, size) and record.key.sizes.get("batch", 1) == 1
    ]
    plans = sum(record.bytes for record in needed)
    unets = [record.bytes for record in needed if _is_unet(record)]
    resident = plans - sum(unets) + max(unets, default=0)
    activations = max(record.activation_bytes for record in needed)
    return (
        f"| {_named(size)} | {len(needed)} | {_gb(plans)} | {_gb(resident)} + {_gb(activations)} "
        f"= {_gb(resident + activations)} |"
    )


def _engine_row(record: EngineRecord) -> str:
    batch = record.key.sizes.get("batch", 1)
    name = record.key.component if batch == 1 else f"{record.key.component}, batch {batch}"
    return (
        f"| {name} | {_named(record.key.pixels)} | {record.bytes / 1e6:.1f} MB "
        f"| {record.activation_bytes / 1e6:.1f} MB | {record.seconds:.0f} s "
        f"| {_gb(record.peak_bytes)} |"
    )


def _group(record: EngineRecord) -> tuple[str, str, tuple[str, ...]]:
    return record.key.flavour, record.key.version, record.key.targets


def _sizes(records: Iterable[EngineRecord]) -> list[tuple[int, int]]:
    found = {record.key.pixels for record in records if _is_unet(record)}
    return sorted((size for size in found if size), key=lambda size: size[0] * size[1])


def _is_unet(record: EngineRecord) -> bool:
    return record.key.component.startswith("unet")


def _order(record: EngineRecord) -> tuple[Any, ...]:
    return record.key.component, record.key.pixels or (0, 0), json.dumps(record.key.sizes)


def _named(size: Size) -> str:
    if size is None:
        return "any"
    text = "{}x{}".format(*size)
    return f"{_PRESETS[size]} ({text})" if size in _PRESETS else text


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, help="a bundle with engines")
    parser.add_argument("--engines", type=Path, help="where they are [default: BUNDLE/engines]")
    parser.add_argument("--write", action="store_true", help="put the table into docs/tensorrt.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
