"""`lightfill ...`: the command line. Errors end as one sentence on stderr and a non-zero status."""

import io
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .checks import real_number
from .cli_bench import bench
from .cli_build import build, engines
from .cli_export import export
from .cli_keys import keys
from .cli_quantize import quantize
from .cli_reports import doctor, info, plain
from .cli_serve import serve
from .cli_verify import verify
from .errors import InvalidInput, LightfillError

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2

app = typer.Typer(
    name="lightfill",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would swallow every [...] in the help
    add_completion=False,
)
app.command()(export)
app.command()(build)
app.command()(engines)
app.command()(quantize)
app.command()(verify)
app.command()(serve)
app.add_typer(keys, name="keys")
app.command()(bench)
app.command()(doctor)
app.command()(info)
_screen = Console(stderr=True)
_out = Console()


def main() -> None:
    """Entry point of the `lightfill` command."""
    logging.basicConfig(level=logging.WARNING, format="lightfill: %(message)s")
    # Our own pixel limit, with its own message, comes right after Pillow's warning would.
    warnings.filterwarnings("ignore", message=".*decompression bomb", category=Warning)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a narrow terminal is no reason to fail
    try:
        app()
    except InvalidInput as error:
        _fail(error, EXIT_BAD_INPUT)
    except LightfillError as error:
        _fail(error, EXIT_FAILED)


@app.callback(invoke_without_command=True)
def show_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """SDXL-Lightning inpainting on your own hardware."""
    if version:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def inpaint(
    image: Annotated[Path, typer.Option(help="The photo.")],
    mask: Annotated[Path, typer.Option(help="Its mask: white is repainted.")],
    prompt: Annotated[str, typer.Option(help="What to paint there.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write: .png, .jpg. [default: IMAGE-inpainted.png]")
    ] = None,
    image_size: Annotated[
        str, typer.Option(help='Preset (square_hd, portrait_4_3, ...), WIDTHxHEIGHT or "source".')
    ] = "square_hd",
    steps: Annotated[int, typer.Option(help="1, 2, 4 or 8, as the bundle has.")] = 4,
    strength: Annotated[float, typer.Option(help="How far to leave the photo, 0.01 to 1.")] = 0.95,
    seed: Annotated[int | None, typer.Option(help="Random if not given; it is printed.")] = None,
    num_images: Annotated[int, typer.Option(help="1 to 8, with seeds SEED, SEED+1, ...")] = 1,
    file_format: Annotated[
        str | None, typer.Option("--format", help="jpeg or png. [default: as OUTPUT ends]")
    ] = None,
    fit: Annotated[
        str, typer.Option(help="A photo of another shape is: crop, stretch or pad.")
    ] = "crop",
    crop_to_mask: Annotated[
        float | None,
        typer.Option(
            metavar="FRACTION",
            help="Paint only the mask's surroundings, grown by this; the photo keeps its size.",
        ),
    ] = None,
    feather: Annotated[int, typer.Option(help="Soft edge inside the mask, pixels.")] = 8,
    embedding: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[=TOKEN,TOKEN]", help="Textual inversion; may be repeated."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Model bundle. [default: the embedded demo model]")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, openvino, cuda, tensorrt or rtx.")] = "cpu",
    precision: Annotated[
        str | None, typer.Option(help="On openvino: bf16, int8 or int8+bf16. [default: float32]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    low_memory: Annotated[
        bool | None,
        typer.Option(
            "--low-memory/--no-low-memory",
            help="Load one part of the model at a time. [default: if memory is short]",
        ),
    ] = None,
    engines_directory: Annotated[
        Path | None,
        typer.Option("--engines", help="TensorRT engines. [default: the bundle's own]"),
    ] = None,
    build_missing: Annotated[
        bool, typer.Option("--build-missing", help="Build TensorRT engines that are not there.")
    ] = False,
    vram_budget: Annotated[
        float | None,
        typer.Option(metavar="GB", help="GPU memory for TensorRT engines. [default: all there is]"),
    ] = None,
    safety_checker: Annotated[
        bool | None,
        typer.Option(
            "--safety-checker/--no-safety-checker",
            help="Demand or skip a check. [default: if the bundle has a checker]",
        ),
    ] = None,
    safety_checker_version: Annotated[
        str | None, typer.Option(help="v1 (the bundle's) or v2 (open_nsfw). [default: v1]")
    ] = None,
    expand_prompt: Annotated[
        bool, typer.Option("--expand-prompt", help="Lengthen the prompt; it is printed.")
    ] = False,
    blend: Annotated[str, typer.Option(help="context, or diffusers for parity.")] = "context",
    composite: Annotated[
        bool, typer.Option(help="Put the photo's own pixels back outside the mask.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Repaint the white part of MASK in IMAGE as PROMPT says."""
    from .output_paths import check_writable, numbered, output_path
    from .pipeline import Inpainter
    from .request import validated
    from .textual_inversion import Embedding

    target = output_path(output, file_format, image)
    options: dict[str, Any] = {
        "image_size": image_size, "steps": steps, "strength": strength, "seed": seed,
        "num_images": num_images, "fit": fit, "crop_to_mask": crop_to_mask,
        "feather": feather, "blend": blend, "composite": composite,
    }  # fmt: skip
    validated(prompt=prompt, **options)  # before a model is loaded
    check_writable(target)
    embeddings = [Embedding(*_path_and_tokens(given)) for given in embedding or []]
    resources: dict[str, Any] = {
        "threads": threads, "low_memory": low_memory, "engines": engines_directory,
        "build_missing": build_missing, "precision": precision,
        "vram_budget_bytes": None if vram_budget is None else _bytes("vram_budget", vram_budget),
    }  # fmt: skip
    with (
        Inpainter.open(bundle, device, **resources) as inpainter,
        _progress(hidden=as_json) as progress,
    ):
        task = progress.add_task("denoising", total=None)
        result = inpainter(
            image,
            mask,
            prompt,
            embeddings=embeddings,
            enable_safety_checker=safety_checker,
            safety_checker_version=safety_checker_version,
            expand_prompt=expand_prompt,
            on_step=lambda at: progress.update(task, completed=at.step, total=at.of),
            **options,
        )
    paths = [result.save(path, i) for i, path in enumerate(numbered(target, num_images))]
    report = _report(result, paths)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        _print_report(report, expanded=expand_prompt)


def _bytes(field: str, gigabytes: float) -> int:
    return int(real_number(field, gigabytes, 0.001, 1e6) * 1e9)


def _path_and_tokens(given: str) -> tuple[Any, ...]:
    """FILE or FILE=TOKEN,TOKEN; a file that exists under the whole text is meant as it is."""
    path, equals, tokens = given.rpartition("=")
    if not equals or Path(given).exists():
        return (given,)
    return path, tuple(tokens.split(","))


def _report(result: Any, paths: list[Path]) -> dict[str, Any]:
    from .doctor import runtime_versions

    return {
        "output": [str(path) for path in paths],
        "seed": result.seed,
        "seeds": list(result.seeds),
        "steps": result.steps,
        "effective_steps": result.effective_steps,
        "strength": result.strength,
        "size": list(result.image.size),
        "prompt": result.prompt,
        "truncated_prompt": result.truncated_prompt,
        "mask_cut_off": result.mask_cut_off,
        "safety_checked": result.safety_checked,
        "safety_checker": result.safety_checker,
        "has_nsfw_concepts": list(result.has_nsfw_concepts),
        "device": result.device,
        "timings": result.timings.as_dict(),
        "versions": runtime_versions(),
    }


def _print_report(report: dict[str, Any], *, expanded: bool) -> None:
    table = Table("stage", "ms", box=None)
    for stage, seconds in report["timings"].items():
        each = seconds if isinstance(seconds, list) else [seconds]
        table.add_row(stage, " ".join(f"{value * 1000:.1f}" for value in each))
    _out.print(table)
    _out.print(
        f"seed {report['seed']}, {report['effective_steps']} of {report['steps']} steps "
        f"on {report['device']}",
        highlight=False,
    )
    if expanded:
        _out.print(f"prompt: {report['prompt']}", soft_wrap=True, highlight=False, markup=False)
    flagged = [str(i + 1) for i, unsafe in enumerate(report["has_nsfw_concepts"]) if unsafe]
    if flagged:
        checker = report["safety_checker"]
        _out.print(f"safety checker {checker}: black instead of picture {', '.join(flagged)}")
    for path in report["output"]:
        _out.print(path, soft_wrap=True, highlight=False, markup=False)


def _progress(*, hidden: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    return Progress(
        *columns, console=_screen, transient=True, disable=hidden or not _screen.is_terminal
    )


def _fail(error: LightfillError, status: int) -> None:
    _screen.print(f"[bold red]error:[/bold red] {plain(str(error))}", soft_wrap=True)
    sys.exit(status)
