"""`lightfill verify`: does a device compute what the CPU does? A table, and an exit status."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

EXIT_DIFFERS = 1


def verify(
    bundle: Annotated[
        Path | None, typer.Argument(help="Model bundle. [default: the embedded demo model]")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, openvino, cuda, tensorrt or rtx.")] = "cpu",
    image_size: Annotated[
        list[str] | None,
        typer.Option(
            help="Preset or WIDTHxHEIGHT; may be repeated. [default: the bundle's natural size]"
        ),
    ] = None,
    engines: Annotated[
        Path | None, typer.Option(help="TensorRT engines. [default: the bundle's own]")
    ] = None,
    build_missing: Annotated[
        bool, typer.Option("--build-missing", help="Build TensorRT engines that are not there.")
    ] = False,
    precision: Annotated[
        str | None, typer.Option(help="On openvino: bf16, int8 or int8+bf16. [default: float32]")
    ] = None,
    device_index: Annotated[int, typer.Option(help="Which GPU.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare a device with the CPU, part by part and in a whole picture; status 1 if it differs.

    The CPU computes everything once: minutes for SDXL at full size.
    """
    from . import verify as verification
    from .bundle import Bundle
    from .request import fixed_image_size
    from .sessions import SessionOptions

    opened = Bundle.open(bundle)
    natural = f"{opened.manifest.natural_size}x{opened.manifest.natural_size}"
    sizes = [fixed_image_size(text) for text in image_size or [natural]]
    options = SessionOptions(
        device_index=device_index,
        engines=engines,
        build_missing=build_missing,
        precision=precision,
    )
    screen = Console(stderr=True)
    found = {}
    with screen.status("") as status:
        for width, height in sizes:
            found[f"{width}x{height}"] = verification.verify(
                opened, device, (width, height), options, status.update
            )
    passed = all(part.passed for parts in found.values() for part in parts)
    if as_json:
        print(json.dumps(_report(device, passed, found), indent=1))
    else:
        _print(device, passed, found)
    if not passed:
        raise typer.Exit(EXIT_DIFFERS)


def _report(device: str, passed: bool, found: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    from .doctor import machine, runtime_versions

    return {
        "device": device,
        "passed": passed,
        "sizes": {size: [asdict(part) for part in parts] for size, parts in found.items()},
        "machine": machine(),
        "versions": runtime_versions(),
    }


def _print(device: str, passed: bool, found: Mapping[str, Sequence[Any]]) -> None:
    out = Console()
    for size, parts in found.items():
        table = Table(f"{device} at {size}", "max error", "PSNR", "at least", "", box=None)
        for part in parts:
            table.add_row(
                part.part,
                f"{part.max_abs_error:.2g}",
                "equal" if part.psnr_db == 999.0 else f"{part.psnr_db:.1f} dB",
                f"{part.minimum_db:.0f} dB",
                "[green]yes[/green]" if part.passed else "[red]NO[/red]",
            )
        out.print(table)
    verdict = "agrees with" if passed else "DIFFERS from"
    out.print(f"{device} {verdict} the CPU", highlight=False)
