"""The layers of one LoRA file, by component role and weight, however the file spells them.

Layouts: kohya's (`lora_unet_...`, `lora_te1_...`, `lora_te2_...`; blocks named by diffusers or by
the original SDXL code), diffusers' old and new ones, and peft's. Names are translated by diffusers'
own converters, one layer at a time: given whole files they drop what they do not know. peft itself
is not needed.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..engine.errors import ExportError

Settings = Mapping[str, Any]

_ROLES = ("unet", "text_encoder", "text_encoder_2")
_UNET_PART = re.compile(r"(conv_(in|out)|(time|add)_embedding|(down|up)_blocks|mid_block)")
_KOHYA = ("lora_unet_", "lora_te1_", "lora_te2_")
_PEFT = "base_model.model."
_KOHYA_PARTS = {"lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha"}
_PEFT_PARTS = {"lora_A.weight": "down", "lora_B.weight": "up", "alpha": "alpha"}
_PEFT_KEY = re.compile(r"(.+?)\.(lora_[AB]\.weight|alpha)")
_OTHER_KINDS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "lora_mid": "a Tucker-decomposed LoCon",
}
_OTHER_MODELS = {
    "lora_te_": "Stable Diffusion 1.x or 2.x",
    "lora_te3_": "Stable Diffusion 3",
    "lora_unet_joint_blocks_": "Stable Diffusion 3",
    "lora_unet_double_blocks_": "Flux",
    "lora_unet_single_blocks_": "Flux",
    "lora_prior_": "Stable Cascade",
    "lora_controlnet": "ControlNet",
    "lora_transformer_": "Flux, Stable Diffusion 3 or another diffusion transformer",
    "transformer.": "Flux, Stable Diffusion 3 or another diffusion transformer",
    "diffusion_model.": "Flux, Wan or another diffusion transformer",
}
_CONTEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
_CONTEXT_WIDTHS |= {1280: "the SDXL refiner", 2048: "SDXL"}
_text_encoder_to_peft: Callable[..., dict[str, None]] = convert_state_dict_to_peft
_unet_to_peft: Callable[..., dict[str, None]] = convert_unet_state_dict_to_peft
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # others alter the base


@dataclass(frozen=True)
class LoraLayer:
    """A low-rank change of one weight; `name` is what the file calls it."""

    name: str
    down: Tensor
    up: Tensor
    strength: float
    """alpha / rank."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight it was trained for."""
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self) -> Tensor:
        """What is added to the weight, float32."""
        product = self.up.flatten(1).float() @ self.down.flatten(1).float()
        return (self.strength * product).reshape(self.shape)


def read_layers(path: Path, unet_config: Settings) -> dict[tuple[str, str], LoraLayer]:
    """The file's layers by role and canonical weight key; refuses all that cannot be merged.

    `unet_config` tells how many layers a block has, which the original SDXL names leave open, and
    the width of the text encodings, by which a LoRA for another model family is recognised.
    """
    tensors, settings = _read(path)
    for key in tensors:
        _refuse_others(path, key)
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    names: dict[tuple[str, str], str] = {}
    for key, tensor in tensors.items():
        role, module, part = _place(path, key, unet_config)
        parts = found.setdefault((role, module), {})
        names.setdefault((role, module), key)
        if part in parts:
            raise ExportError(
                f"{path} changes {role}'s {module} twice, as {names[role, module]} and as {key}; "
                "keep one of the two"
            )
        parts[part] = tensor
    layers = {}
    for (role, module), parts in found.items():
        own = _settings_of(role, settings)
        layers[role, f"{module}.weight"] = _layer(path, names[role, module], parts, module, own)
    _refuse_other_widths(path, layers, unet_config)
    return layers


def canonical_key(role: str, key: str) -> str:
    """A text encoder's key as published checkpoints spell it.

    transformers 5 saves a `CLIPTextModel` without the prefix `text_model.`.
    """
    bare = role != "unet" and key.startswith(("encoder.", "embeddings.", "final_layer_norm."))
    return f"text_model.{key}" if bare else key


def _read(path: Path) -> tuple[dict[str, Tensor], Settings]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
            raw = (file.metadata() or {}).get("lora_adapter_metadata")
        sidecar = path.with_name("adapter_config.json")
        if raw is None and any(key.startswith(_PEFT) for key in tensors) and sidecar.is_file():
            raw = sidecar.read_text(encoding="utf-8")
        settings = json.loads(raw or "{}")
    except SafetensorError as error:
        raise ExportError(
            f"{path} is not a safetensors file ({error}); pass the LoRA as .safetensors: pickles "
            "(.bin, .ckpt, .pt) can run code and are not read"
        ) from error
    except OSError as error:
        raise ExportError(f"{path} cannot be read ({error}); check the LoRA's path") from error
    except ValueError as error:
        raise ExportError(
            f"{path} has adapter settings that are not JSON ({error}); save the LoRA again"
        ) from error
    if not tensors or not isinstance(settings, dict):
        raise ExportError(f"{path} holds no LoRA; download it again")
    return tensors, settings


def _refuse_others(path: Path, key: str) -> None:
    for fragment, kind in _OTHER_KINDS.items():
        if fragment in key:
            raise ExportError(
                f"{path} is {kind} ({key}), which is not supported; pass a plain LoRA"
            )
    for prefix, family in _OTHER_MODELS.items():
        if key.startswith(prefix):
            raise ExportError(
                f"{path} seems to be for {family} ({key}); pass a LoRA trained for SDXL"
            )


def _place(path: Path, key: str, unet_config: Settings) -> tuple[str, str, str]:
    """The role, module and part ("down", "up" or "alpha") that a key of the file stands for."""
    named, part = key, ""
    try:
        if key.startswith(_KOHYA):
            layer, _, suffix = key.partition(".")
            part = _KOHYA_PARTS[suffix]
            named = _from_kohya(layer, unet_config.get("layers_per_block"))
        role, _, rest = named.removeprefix(_PEFT).partition(".")
        if _UNET_PART.fullmatch(role):  # saved from the UNet alone
            role, rest = "unet", f"{role}.{rest}"
        match = _PEFT_KEY.fullmatch(_to_peft(role, rest.removeprefix(_PEFT)))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _unknown(path, key) from error
    if role not in _ROLES or match is None:
        raise _unknown(path, key)
    return role, canonical_key(role, match[1]), part or _PEFT_PARTS[match[2]]


@cache
def _from_kohya(layer: str, layers_per_block: int) -> str:
    """diffusers' name of the layer's lower half."""
    probe = dict.fromkeys((f"{layer}.lora_down.weight", f"{layer}.lora_up.weight"), torch.empty(0))
    renamed, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        probe, unet_config=SimpleNamespace(layers_per_block=layers_per_block)
    )
    return str(next(iter(renamed)))


def _to_peft(role: str, name: str) -> str:
    renamed = dict.fromkeys([name])
    if role != "unet":  # its attention is named to_q in the oldest layout, q_proj in the model
        for kind in (StateDictType.DIFFUSERS_OLD, StateDictType.DIFFUSERS):
            renamed = _text_encoder_to_peft(renamed, original_type=kind)
    return next(iter(_unet_to_peft(renamed)))


def _unknown(path: Path, key: str) -> ExportError:
    return ExportError(
        f"{path} has {key!r}, which is no part of an SDXL LoRA that can be merged; pass a LoRA "
        "saved by kohya's scripts, diffusers or peft"
    )


def _layer(
    path: Path, name: str, parts: Mapping[str, Tensor], module: str, settings: Settings
) -> LoraLayer:
    missing = {"down", "up"} - parts.keys()
    if missing:
        raise ExportError(
            f"{path} has no {' and no '.join(sorted(missing))} matrix beside {name}; the file is "
            "incomplete: download it again"
        )
    down, up = parts["down"], parts["up"]
    rank = down.shape[0] if down.ndim else 0
    fits = down.ndim in {2, 4} and tuple(up.shape[1:]) == (rank, *[1] * (down.ndim - 2))
    if not rank or not fits:
        raise ExportError(
            f"{path} has matrices of shapes {tuple(down.shape)} and {tuple(up.shape)} at {name}, "
            "whose product is no weight; download it again"
        )
    for tensor in parts.values():
        if not tensor.float().isfinite().all() or (tensor.ndim and not tensor.is_floating_point()):
            raise ExportError(
                f"{path} has values at {name} that are not finite floating-point numbers; the file "
                "is damaged or quantized: pass the LoRA in float32, float16 or bfloat16"
            )
    try:
        strength = _strength(parts.get("alpha"), rank, module, settings)
    except (TypeError, ValueError, RuntimeError, AttributeError, re.error) as error:
        raise ExportError(
            f"{path} has adapter settings for {name} that cannot be used ({error}); save the LoRA "
            "again"
        ) from error
    return LoraLayer(name, down, up, strength)


def _strength(alpha: Tensor | None, rank: int, module: str, settings: Settings) -> float:
    """alpha / rank: alpha from the file, else from peft's settings, else the rank itself."""
    if settings.get("use_dora") or settings.get("init_lora_weights") not in _HARMLESS_STARTS:
        raise ValueError("use_dora or init_lora_weights says that the base weights change too")
    if alpha is not None:
        return float(alpha.item()) / rank
    chosen = float(_named_alpha(module, settings, settings.get("lora_alpha", rank)))
    if not math.isfinite(chosen):
        raise ValueError(f"lora_alpha is {chosen}")
    return chosen / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _named_alpha(module: str, settings: Settings, default: Any) -> Any:
    """The first of peft's patterns that fits the module, spelt with or without `text_model.`."""
    spellings = (module, module.removeprefix("text_model."))
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if any(re.match(rf"(.*\.)?({pattern})$", spelling) for spelling in spellings):
            return alpha
    return default


def _settings_of(role: str, settings: Settings) -> Settings:
    """peft's settings of one component; without prefix they are of the only one there is."""
    start = f"{role}."
    own = {key.removeprefix(start): settings[key] for key in settings if key.startswith(start)}
    return own or {key: value for key, value in settings.items() if "." not in key}


def _refuse_other_widths(
    path: Path, layers: Mapping[tuple[str, str], LoraLayer], unet_config: Settings
) -> None:
    wanted = unet_config.get("cross_attention_dim")
    for (role, key), layer in layers.items():
        if role == "unet" and re.search(r"\.attn2\.to_[kv]\.weight$", key):
            width = layer.down.shape[1]
            if width != wanted:
                family = _CONTEXT_WIDTHS.get(width, "another model family")
                raise ExportError(
                    f"{path} seems to be for {family}: {layer.name} reads text encodings of width "
                    f"{width}, this checkpoint's are {wanted} wide; pass one trained for its kind"
                )
