"""`lightfill quantize`: int8 UNets for device openvino, kept only if their pictures hold up."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .checks import step_counts


def quantize(
    bundle: Annotated[Path, typer.Argument(help="The bundle; int8 UNets go beside its files.")],
    steps: Annotated[
        str | None, typer.Option(help="Step counts, e.g. 4,8. [default: all the bundle has]")
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(help="Of the calibration requests. [default: the natural size, at most 512]"),
    ] = None,
    calibration_runs: Annotated[
        int, typer.Option(help="Requests that choose the ranges of activations.")
    ] = 8,
    judging_runs: Annotated[int, typer.Option(help="Other requests that judge the result.")] = 4,
    minimum_psnr: Annotated[
        float, typer.Option(help="Worst picture accepted, dB from float32's inside the mask.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """Quantize BUNDLE's UNets to int8, for --device openvino --precision int8 or int8+bf16."""
    from .bundle import Bundle
    from .quantize import QuantizationRequest
    from .quantize import quantize as quantized
    from .request import fixed_image_size

    opened = Bundle.open(bundle)
    edge = min(opened.manifest.natural_size, 512)
    request = QuantizationRequest(
        bundle=opened,
        size=fixed_image_size(image_size or f"{edge}x{edge}"),
        steps=tuple(step_counts(steps) if steps else sorted(opened.manifest.steps)),
        calibration_runs=calibration_runs,
        judging_runs=judging_runs,
        minimum_picture_db=minimum_psnr,
    )
    screen = Console(stderr=True)
    with screen.status("") as status:
        records = quantized(request, status.update)
    if as_json:
        print(json.dumps({name: each.model_dump() for name, each in records.items()}, indent=1))
        return
    table = Table("int8", "timestep: dB from float32", "worst picture", "size", box=None)
    for name, record in records.items():
        by_step = ", ".join(f"{step}: {psnr:.1f}" for step, psnr in record.step_psnr_db.items())
        stored = sum(entry.bytes for entry in record.files.values())
        table.add_row(name, by_step, f"{record.picture_psnr_db:.1f} dB", f"{stored / 1e6:.1f} MB")
    Console().print(table)
