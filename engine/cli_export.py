"""`lightfill export`: the command's options; PyTorch is imported when it runs, not before."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .errors import LightfillError


def export(
    out: Annotated[Path, typer.Option(help="The bundle to make, or to add step counts to.")],
    steps: Annotated[str, typer.Option(help="Step counts to serve.")] = "1,2,4,8",
    base: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Hub id (owner/name[@revision]), diffusers folder or safetensors file. "
            "[default: SDXL base 1.0 with SDXL-Lightning's UNets]",
        ),
    ] = None,
    unet: Annotated[
        list[str] | None,
        typer.Option(metavar="[STEPS=]SOURCE", help="UNet, for one step count or all the others."),
    ] = None,
    prediction: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STEPS=]KIND",
            help="epsilon, sample or v_prediction. [default: as the files say]",
        ),
    ] = None,
    vae: Annotated[str | None, typer.Option(metavar="SOURCE", help="VAE.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Diffusers folder whose configurations single files have. [default: SDXL's]"
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:SCALE]", help="LoRA to merge; may be repeated."),
    ] = None,
    safety_checker: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="E.g. CompVis/stable-diffusion-safety-checker."),
    ] = None,
    prompt_expander: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="E.g. Gustavosta/MagicPrompt-Stable-Diffusion."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of --base, on the hub.")] = None,
    local_files_only: Annotated[
        bool, typer.Option("--local-files-only", help="Use what the hub's cache has.")
    ] = False,
    synthetic: Annotated[
        str | None, typer.Option(help="sdxl or tiny: random weights, no checkpoint.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Stored precision: fp16 or fp32.")] = "fp16",
    arithmetic: Annotated[
        list[str] | None,
        typer.Option(help="float32 (CPU), float16 (GPU); may be repeated. [default: both]"),
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare every component with PyTorch.")] = True,
    name: Annotated[str | None, typer.Option(help="[default: OUT's name]")] = None,
    natural_size: Annotated[
        int | None, typer.Option(help="Edge it was trained for. [default: 1024]")
    ] = None,
) -> None:
    """Turn checkpoints into an ONNX bundle (needs lightfill[export])."""
    try:
        from ..export.command import export_from_command_line
    except ImportError as error:
        raise LightfillError(
            f"exporting needs PyTorch and diffusers ({error}); `pip install 'lightfill[export]'`"
        ) from error
    export_from_command_line(
        out=out, steps=steps, base=base, unet=unet or [], prediction=prediction or [], vae=vae,
        config=config, lora=lora or [], safety_checker=safety_checker,
        prompt_expander=prompt_expander, revision=revision, local_files_only=local_files_only,
        synthetic=synthetic, dtype=dtype, arithmetic=arithmetic or [], verify=verify, name=name,
        natural_size=natural_size, screen=Console(stderr=True),
    )  # fmt: skip
    ready = f"{out} is ready: `lightfill inpaint --bundle {out} ...`"
    Console().print(ready, markup=False, highlight=False, soft_wrap=True)
