"""`lightfill build` and `lightfill engines`: the options; the work is in `export`, torch-free."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .errors import InvalidInput

EXIT_INTERRUPTED = 130


def build(
    bundle: Annotated[Path, typer.Argument(help="The bundle to build engines of.")],
    image_size: Annotated[
        list[str] | None,
        typer.Option(help="Preset (square_hd, ...) or WIDTHxHEIGHT; may be repeated."),
    ] = None,
    all_sizes: Annotated[
        bool, typer.Option("--all-sizes", help="Every preset, besides --image-size.")
    ] = False,
    steps: Annotated[
        str | None, typer.Option(help="Step counts, e.g. 4,8. [default: all the bundle has]")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Pictures per UNet call; may be repeated. [default: 1]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="tensorrt or rtx. [default: the one installed]")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="SM[,SM]",
            help="Compute capabilities to build for: sm89,sm120. [default: this machine's]",
        ),
    ] = None,
    device_index: Annotated[
        int, typer.Option(help="Which of this machine's GPUs TensorRT builds on.")
    ] = 0,
    optimization_level: Annotated[
        int | None, typer.Option(help="TensorRT's, 0 to 5. [default: TensorRT's own]")
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(help="Memory kernels may use, e.g. 4G. [default: all]")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Engines built at a time.")] = 1,
    engines: Annotated[
        Path | None, typer.Option(help="Where engines go. [default: BUNDLE/engines]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be built, and how large it is.")
    ] = False,
) -> None:
    """Build TensorRT engines of BUNDLE for image sizes (needs lightfill[build])."""
    from ..export.build_command import build_from_command_line
    from .request import IMAGE_SIZES, fixed_image_size

    sizes = list(IMAGE_SIZES.values()) if all_sizes else []
    sizes += map(fixed_image_size, image_size or [])
    if not sizes:
        raise InvalidInput(
            "image_size", "name the sizes to build, as --image-size square_hd, or pass --all-sizes"
        )
    screen = Console(stderr=True)
    try:
        build_from_command_line(
            bundle=bundle, sizes=sizes, steps=steps, batch=batch or [1], device=device, gpu=gpu,
            device_index=device_index, optimization_level=optimization_level,
            workspace=workspace, jobs=jobs, engines=engines, dry_run=dry_run, screen=screen,
        )  # fmt: skip
    except KeyboardInterrupt:
        screen.print("stopped: engines that were finished stay; the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def engines(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    directory: Annotated[
        Path | None, typer.Option("--engines", help="Where they are. [default: BUNDLE/engines]")
    ] = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Read them all, and remove those that nothing can use."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print them with their keys.")] = False,
) -> None:
    """List the TensorRT engines of BUNDLE: what for, usable here or not, and why."""
    from ..export.engine_listing import list_from_command_line

    list_from_command_line(bundle, directory, pruned=prune, as_json=as_json, out=Console())
