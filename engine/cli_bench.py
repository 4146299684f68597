"""`lightfill bench`: the options; the work is in `bench`, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .errors import InvalidInput


def bench(
    bundle: Annotated[
        Path | None, typer.Option(help="Model bundle. [default: the embedded demo model]")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, openvino, cuda, tensorrt, rtx, or null: the host alone.")
    ] = "cpu",
    precision: Annotated[
        str | None, typer.Option(help="On openvino: bf16, int8 or int8+bf16. [default: float32]")
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(help="Preset or WIDTHxHEIGHT. [default: the bundle's natural size]"),
    ] = None,
    steps: Annotated[int, typer.Option(help="1, 2, 4 or 8, as the bundle has.")] = 4,
    strength: Annotated[float, typer.Option(help="0.01 to 1; decides how many steps run.")] = 0.95,
    batch: Annotated[int, typer.Option(help="Pictures at a time, 1 to 8.")] = 1,
    runs: Annotated[int, typer.Option(help="Requests measured.")] = 10,
    warmup: Annotated[int, typer.Option(help="Requests before them, not measured.")] = 3,
    cold_starts: Annotated[
        int, typer.Option(help="New processes measured to their first picture; 0: none.")
    ] = 3,
    image: Annotated[
        Path | None, typer.Option(help="A photo. [default: a generated one of 1024x1024]")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Its mask; goes with --image.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    low_memory: Annotated[
        bool | None,
        typer.Option("--low-memory/--no-low-memory", help="As `lightfill inpaint` has it."),
    ] = None,
    engines: Annotated[
        Path | None, typer.Option(help="TensorRT engines. [default: the bundle's own]")
    ] = None,
    build_missing: Annotated[
        bool, typer.Option("--build-missing", help="Build TensorRT engines that are not there.")
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the artefact here; table and picture go beside it."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write SVG plots (lightfill[bench]).")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help="Measure growth with image_size, batch, steps or concurrency instead."),
    ] = None,
    peers: Annotated[
        str | None,
        typer.Option(help="all, or names with commas: measure these, too, pair by pair."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The diffusers folder that peers load.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A.json B.json", help="Compare two artefacts; nothing is measured."),
    ] = None,
    predict: Annotated[
        str | None,
        typer.Option(
            metavar="GPU",
            help="h100, a100, l40s, 4090, ...: its floor and what to expect. Nothing is measured.",
        ),
    ] = None,
) -> None:
    """Measure latency stage by stage, against the device's limit and against peers."""
    from ..bench import command
    from ..bench.own_side import EngineOptions

    screen = Console(stderr=True)
    if compare is not None:
        command.compare(*compare)
        return
    if predict is not None:
        command.predict(predict, bundle, image_size, steps, strength, json_file)
        return
    if (image is None) != (mask is None):
        raise InvalidInput("image", "a photo and its mask go together; pass --image and --mask")
    options = EngineOptions(
        bundle=bundle, device=device, threads=threads, low_memory=low_memory, engines=engines,
        build_missing=build_missing, precision=precision,
    )  # fmt: skip
    request = command.Asked(
        image_size=image_size, steps=steps, strength=strength, batch=batch, image=image, mask=mask
    )
    amount = command.Amount(runs=runs, warmups=warmup, cold_starts=cold_starts)
    outputs = command.Outputs(json=json_file, plots=plot)
    with screen.status("") as status:
        if sweep is not None:
            command.sweep(options, request, amount, outputs, sweep, status.update)
        else:
            command.latency(options, request, amount, outputs, peers, checkpoint, status.update)
