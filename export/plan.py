"""From a request to parts: every component's configuration and weights, before anything is traced.

All that can fail at once does so here: missing files, wrong shapes, gated repositories.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.errors import ExportError
from ..engine.manifest import AppliedLora, Manifest, SchedulerConstants, Source, StepCount
from ..scheduler import Prediction
from .architecture import TABLE_KEY, build
from .base import (
    SDXL,
    Base,
    DiffusersBase,
    SingleFileBase,
    SyntheticBase,
    check_vae_config,
    file_weights,
    folder_weights,
    read_config,
    setting,
)
from .extras import extra_parts
from .lora import LoraDeltas
from .merged import merged
from .part import Part
from .repositories import LocalFile, LocalFolder, Repository, open_repository
from .request import SDXL_BASE, VAE_FP16_FIX, ExportRequest
from .staging import sha256_of
from .synthetic import synthetic_configs
from .tensors import Weights
from .tokenizer_files import TokenizerFile
from .unets import resolve_unets

_TEXT_ROLES = ("text_encoder", "text_encoder_2")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything an export will write. `parts` are in the order they are written.

    licensed: where licence texts are copied from.
    """

    source: Source
    parts: tuple[Part, ...]
    steps: dict[int, StepCount]
    tokenizers: dict[str, TokenizerFile]
    scheduler: SchedulerConstants
    vae_scaling_factor: float
    natural_size: int
    licensed: tuple[Repository, ...]


@dataclass(frozen=True)
class _Vae:
    config: dict[str, Any]
    source: Source
    weights: Callable[[str], Weights]


def make_plan(request: ExportRequest) -> Plan:
    """Resolve every source of a new bundle; raises ExportError saying what is missing."""
    base = _base(request)
    licensed: list[Repository] = [] if request.synthetic else [base.files]
    vae = _vae(request, base, licensed)
    scaling_factor = check_vae_config(vae.config, f"{vae.source.checkpoint} vae")
    _warn_of_overflow(request, vae)
    scheduler = base.config("scheduler")
    constants = _constants(scheduler, base.source.checkpoint, quiet=request.synthetic is not None)
    tokenizers = base.tokenizers()
    deltas = LoraDeltas.load(request.loras, base.config("unet"))
    parts = [_text_part(role, base, deltas) for role in _TEXT_ROLES]
    parts += [
        Part(role, role, vae.config, vae.weights(role), vae.source)
        for role in ("vae_encoder", "vae_decoder")
    ]
    unets, steps = _unet_parts(request, base, request.steps, deltas, licensed)
    return Plan(
        source=base.source,
        parts=(*parts, *unets, *extra_parts(request, licensed)),
        steps=steps,
        tokenizers=tokenizers,
        scheduler=constants,
        vae_scaling_factor=scaling_factor,
        natural_size=request.natural_size or (64 if request.synthetic == "tiny" else 1024),
        licensed=_once(licensed),
    )


def make_addition(request: ExportRequest, manifest: Manifest) -> Plan:
    """What an existing bundle lacks, when the request names no base: UNets and extras alone.

    Step counts that it serves are looked at again only if something is said of their UNets.
    """
    licensed: list[Repository] = []
    base = DiffusersBase(LocalFolder(request.config) if request.config else SDXL)
    deltas = LoraDeltas.load(request.loras, base.config("unet"))
    if any(deltas.keys(role) for role in _TEXT_ROLES):
        raise ExportError(
            "a LoRA changes the text encoders, which this bundle already has; name the --base to "
            "export a new bundle from, and another --out"
        )
    said = {*request.unets, *request.predictions}
    wanted = [
        count
        for count in request.steps
        if count not in manifest.steps or said & {count, None} or request.loras
    ]
    others = {entry.prediction for entry in manifest.steps.values()}
    unets, steps = _unet_parts(request, base, wanted, deltas, licensed, others)
    return Plan(
        source=manifest.source,
        parts=(*unets, *extra_parts(request, licensed)),
        steps=steps,
        tokenizers={},
        scheduler=manifest.scheduler,
        vae_scaling_factor=manifest.vae.scaling_factor,
        natural_size=manifest.natural_size,
        licensed=_once(licensed),
    )


def _once(repositories: Sequence[Repository]) -> tuple[Repository, ...]:
    """Without repetitions; two folders of one name are two."""
    return tuple(each for i, each in enumerate(repositories) if each not in repositories[:i])


def _base(request: ExportRequest) -> Base:
    if request.synthetic:
        return SyntheticBase(request.synthetic, synthetic_configs(request.synthetic))
    files = open_repository(
        request.base or SDXL_BASE,
        revision=request.revision,
        local_files_only=request.local_files_only,
    )
    if isinstance(files, LocalFile):
        configs = LocalFolder(request.config) if request.config else SDXL
        return SingleFileBase(files.path, configs)
    if request.config:
        raise ExportError(
            f"{files.name} has configurations of its own, those of {request.config} would not be "
            "used; leave --config out, it is for single files"
        )
    return DiffusersBase(files, prefer_half=request.weights == "float16")


def _vae(request: ExportRequest, base: Base, licensed: list[Repository]) -> _Vae:
    spec = request.vae or (VAE_FP16_FIX if request.follows_defaults else None)
    if spec is None:
        config = base.config("vae")
        return _Vae(config, base.source, lambda role: base.weights(role, _vae_shapes(config)))
    files = open_repository(spec, local_files_only=request.local_files_only)
    licensed.append(files)
    source = Source(checkpoint=files.name, revision=files.revision)
    if isinstance(files, LocalFile):
        config = base.config("vae")
        weights = file_weights(files.path, "vae", config)
        return _Vae(config, source, lambda _: weights)
    folder = "vae" if "vae/config.json" in files.files() else ""
    half = request.weights == "float16"
    weights = folder_weights(files, folder, "vae_encoder", half)
    return _Vae(read_config(files, folder), source, lambda _: weights)


def _vae_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {
        key: shape
        for role in ("vae_encoder", "vae_decoder")
        for key, shape in build(role, config, "vae").shapes.items()
    }


def _warn_of_overflow(request: ExportRequest, vae: _Vae) -> None:
    if vae.config.get("force_upcast") and "float16" in request.arithmetics:
        logger.warning(
            "the configuration of %s's VAE says that it may overflow in float16 (force_upcast); "
            "if a GPU reports NaN, export with --vae %s",
            vae.source.checkpoint,
            VAE_FP16_FIX.partition("@")[0],
        )


def _text_part(role: str, base: Base, deltas: LoraDeltas) -> Part:
    config = base.config(role)
    origin = f"{base.source.checkpoint}/{role}"
    rows, width = setting(config, "vocab_size", origin), setting(config, "hidden_size", origin)
    table = {TABLE_KEY: (int(rows), int(width))}
    shapes = {**build(role, config, origin).shapes, **table}
    weights = merged(base.weights(role, shapes), role, deltas)
    return Part(role, role, config, weights, base.source, _applied(role, deltas), table)


def _unet_parts(
    request: ExportRequest,
    base: Base,
    wanted: Sequence[int],
    deltas: LoraDeltas,
    licensed: list[Repository],
    others: Collection[Prediction] = (),
) -> tuple[list[Part], dict[int, StepCount]]:
    """UNets and what each count's predicts; `others`: what those in the bundle already predict."""
    parts, steps = [], {}
    for unet in resolve_unets(request, base, wanted, licensed):
        weights = merged(unet.weights, "unet", deltas)
        loras = _applied("unet", deltas)
        parts.append(Part(unet.name, "unet", unet.config, weights, unet.source, loras))
        for count in unet.steps:
            given = request.predictions.get(count, request.predictions.get(None))
            found = given or unet.prediction
            if found is None and request.config is None and set(others) - {Prediction.EPSILON}:
                raise ExportError(
                    f"nothing says what {unet.source.checkpoint} predicts, and the bundle's UNets "
                    f"predict {', '.join(sorted(others))}; pass --prediction {count}=KIND"
                )
            found = found or _prediction(base)
            steps[count] = StepCount(component=unet.name, prediction=found)
    return parts, steps


def _applied(role: str, deltas: LoraDeltas) -> tuple[AppliedLora, ...]:
    return tuple(
        AppliedLora(file=lora.path.name, sha256=sha256_of(lora.path), scale=lora.scale)
        for lora in deltas.applied(role)
    )


def _prediction(base: Base) -> Prediction:
    """What the base's scheduler was configured for."""
    kind = setting(base.config("scheduler"), "prediction_type", base.source.checkpoint)
    try:
        return Prediction(kind)
    except ValueError:
        known = ", ".join(Prediction)
        raise ExportError(
            f"prediction_type {kind!r} of {base.source.checkpoint} is not one of {known}; pass "
            "--prediction"
        ) from None


def _constants(config: dict[str, Any], origin: str, *, quiet: bool) -> SchedulerConstants:
    """The noise process; any but scaled_linear is refused, spacing becomes trailing."""
    betas = setting(config, "beta_schedule", origin)
    spacing = setting(config, "timestep_spacing", origin)
    if betas != "scaled_linear":
        raise ExportError(
            f"beta_schedule {betas!r} of {origin} is not scaled_linear, as SDXL's is; pass an SDXL "
            "checkpoint"
        )
    if spacing != "trailing" and not quiet:
        logger.info("timestep_spacing %r is replaced by trailing, as Lightning's", spacing)
    return SchedulerConstants(
        num_train_timesteps=setting(config, "num_train_timesteps", origin),
        beta_start=setting(config, "beta_start", origin),
        beta_end=setting(config, "beta_end", origin),
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
    )
