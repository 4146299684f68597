"""What a bundle that is added to has already, and what an addition may not change about it."""

from pathlib import Path

from ..engine.bundle import Bundle
from ..engine.errors import ExportError
from ..engine.manifest import MANIFEST_NAME
from .part import Part
from .plan import Plan
from .request import ExportRequest

_OPTIONS = {"float16": "--dtype fp16", "float32": "--dtype fp32"}


def existing_bundle(out: Path) -> Bundle | None:
    """The bundle in `out`, None if there is nothing, ExportError if there is something else."""
    try:
        exists = out.exists()
    except OSError as error:  # a folder above it may not be entered, the name is too long
        raise ExportError(f"{out} cannot be read ({error}); choose another --out") from error
    if not exists:
        return None
    if not (out / MANIFEST_NAME).is_file():
        raise ExportError(f"{out} exists and is no bundle; remove it or choose another --out")
    return Bundle.open(out)


def check_request(existing: Bundle, request: ExportRequest) -> None:
    """Raise ExportError if the request is for a bundle of another kind, before it is planned."""
    manifest, root = existing.manifest, existing.root
    stored = str(existing.token_embedding("text_encoder").dtype)
    if stored != request.weights:
        raise ExportError(
            f"{root} stores {stored} weights, {request.weights} are asked for; pass "
            f"{_OPTIONS[stored]}, or choose another --out"
        )
    for name, component in manifest.components.items():
        if set(component.graphs) != set(request.arithmetics):
            options = " ".join(f"--arithmetic {each}" for each in component.graphs)
            raise ExportError(
                f"{root} has {name} in {' and '.join(component.graphs)}, not "
                f"{' and '.join(request.arithmetics)}; pass {options}, or choose another --out"
            )
    for option, given, has in (
        ("--name", request.name, manifest.name),
        ("--natural-size", request.natural_size, manifest.natural_size),
    ):
        if given not in {None, has}:
            raise ExportError(
                f"{root} has {option} {has}, not {given}; leave it out or choose another --out"
            )
    if request.vae and request.base is None:
        raise ExportError(
            f"{root} has a VAE, which an addition does not change; leave --vae out, or name the "
            "--base to export a new bundle from, and another --out"
        )


def has(existing: Bundle, part: Part, request: ExportRequest) -> bool:
    """Whether the bundle has this very component; another of its name is an error."""
    found = existing.manifest.components.get(part.name)
    if found is not None and found.made_from != part.made_from(request.weights):
        raise ExportError(
            f"{existing.root} has another {part.name} (other weights, configuration, LoRAs or "
            "precision); choose another --out"
        )
    return found is not None


def check_plan(existing: Bundle, plan: Plan) -> None:
    """A step count keeps its UNet: pictures of a seed must not change under a user's hands."""
    manifest, root = existing.manifest, existing.root
    changed = [n for n, step in plan.steps.items() if manifest.steps.get(n, step) != step]
    if changed:
        raise ExportError(
            f"{root} serves {', '.join(map(str, changed))} steps with another UNet or prediction; "
            "choose another --out"
        )
    if (plan.scheduler, plan.vae_scaling_factor) != (
        manifest.scheduler,
        manifest.vae.scaling_factor,
    ):
        raise ExportError(
            f"{plan.source.checkpoint} has another noise process or VAE scaling than {root}; "
            "choose another --out"
        )
    _check_widths(existing, plan)


def _check_widths(existing: Bundle, plan: Plan) -> None:
    """A new UNet must read what the bundle's text encoders write."""
    written = sum(existing.token_embedding(role).shape[1] for role in existing.manifest.tokenizers
                  if role.startswith("text_encoder"))  # fmt: skip
    for part in plan.parts:
        read = part.config.get("cross_attention_dim", written)
        if part.role == "unet" and read != written:
            raise ExportError(
                f"{part.source.checkpoint} reads text {read} wide, the encoders of {existing.root} "
                f"write {written}; pass the --base or --config the bundle was made from"
            )
