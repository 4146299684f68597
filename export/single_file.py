"""One component's tensors under canonical keys, from whatever layout its file has.

Canonical keys are those of the diffusers folder layout: the modules' own for unet and vae,
beginning with `text_model.` (and `text_projection.weight`) for the text encoders. Tensors are
renamed, sliced and transposed as views: a mapped file of 7 GB stays untouched on disk.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Literal

from diffusers.loaders import single_file_utils
from torch import Tensor

from ..engine.errors import ExportError

_LDM: Any = single_file_utils  # diffusers' conversions, which carry no types

Role = Literal["unet", "vae", "text_encoder", "text_encoder_2"]


class Layout(StrEnum):
    """How a file names the tensors of one component, after a prefix or none.

    - DIFFUSERS: the keys of diffusers' and transformers' modules, of any age: the VAE's attention
      as `to_q` or `query`, linear or 1x1 convolution; text encoders with `text_model.` or without.
    - ORIGINAL: the keys of Stability's generative-models, as ComfyUI and most single files have
      them; a text encoder so named is OpenCLIP's, with fused attention projections.
    """

    DIFFUSERS = "diffusers"
    ORIGINAL = "original"


# What a file that holds several components puts before each; the first is diffusers' own.
_PREFIXES: dict[Role, tuple[str, ...]] = {
    "unet": ("unet.", _LDM.LDM_UNET_KEY, ""),
    "vae": ("vae.", "first_stage_model.", ""),
    "text_encoder": ("text_encoder.", "conditioner.embedders.0.transformer.", ""),
    "text_encoder_2": ("text_encoder_2.", "conditioner.embedders.1.model.", ""),
}

# A layout is recognised when each of these begins some key. Only SDXL's UNet embeds the picture's
# size (add_embedding, label_emb); only its second text encoder has a projection.
_CLIP = ("embeddings.token_embedding.", "encoder.layers.")
_OPEN_CLIP = ("token_embedding.", "transformer.resblocks.")
_MARKERS: dict[Role, dict[Layout, tuple[str, ...]]] = {
    "unet": {
        Layout.DIFFUSERS: ("down_blocks.", "up_blocks.", "add_embedding."),
        Layout.ORIGINAL: ("input_blocks.", "output_blocks.", "label_emb."),
    },
    "vae": {
        Layout.DIFFUSERS: ("encoder.down_blocks.", "decoder.up_blocks."),
        Layout.ORIGINAL: ("encoder.down.", "decoder.up."),
    },
    "text_encoder": {Layout.DIFFUSERS: _CLIP, Layout.ORIGINAL: _OPEN_CLIP},
    "text_encoder_2": {
        Layout.DIFFUSERS: (*_CLIP, "text_projection"),
        Layout.ORIGINAL: (*_OPEN_CLIP, "text_projection"),
    },
}

# A file with such a key is no SDXL checkpoint, even where one of its components would fit.
_FOREIGN = {
    r"(^|\.|_)lora[_.]": "a LoRA",
    r"^cond_stage_model\.": "a Stable Diffusion 1 or 2 checkpoint",
    r"^conditioner\.embedders\.0\.model\.": "an SDXL refiner",
    r"(^|\.)(joint_blocks|double_blocks|single_blocks|x_embedder)\.": "a transformer (SD3, FLUX)",
    r"^(control_model|controlnet_\w+|input_hint_block)\.": "a ControlNet",
}
_ANY_UNET = rf"^(unet\.|{re.escape(_LDM.LDM_UNET_KEY)})?(up_blocks|output_blocks)\."

_TOKEN_EMBEDDING = "text_model.embeddings.token_embedding.weight"  # noqa: S105, no password
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_CONVERSION_ERRORS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def canonical(
    tensors: Mapping[str, Tensor], role: Role, config: Mapping[str, Any], origin: str
) -> dict[str, Tensor]:
    """The tensors of one component under their canonical keys, whatever layout the file has.

    Views, not copies. There may be more than the model needs, such as position_ids.

    Args:
        tensors: All tensors of the file by its own keys; on any device, meta included.
        role: The component wanted; the file may hold others besides.
        config: The component's configuration, as its config.json.
        origin: The file's name, for errors.

    Raises:
        ExportError: The file holds no such component, or not in a layout known here.
    """
    found = layout_of(tensors, role)
    if found is None:
        raise ExportError(
            f"{origin} holds no {role} of SDXL in a known layout, it seems to hold "
            f"{_contents(tensors)}; pass a file with the {role} of an SDXL model"
        )
    layout, prefix = found
    own = {name: tensors[key] for key, name in _names(tensors, prefix).items()}
    try:
        renamed = _CONVERSIONS[role, layout](own, config)
    except _CONVERSION_ERRORS as error:
        raise ExportError(
            f"the {role} in {origin} cannot be read as {layout} layout "
            f"({type(error).__name__}: {error}); copy the file again, or pass the model it was "
            "made from as a diffusers folder"
        ) from error
    if role.startswith("text_encoder"):
        _check_width(renamed, role, config, origin)
    return renamed


def layout_of(keys: Iterable[str], role: Role) -> tuple[Layout, str] | None:
    """The layout of `role` among a file's keys and the prefix there, or None if it has no such."""
    keys = list(keys)
    if _foreign(keys):
        return None
    for prefix in _PREFIXES[role]:
        names = _names(keys, prefix).values()
        for layout, markers in _MARKERS[role].items():
            if all(any(name.startswith(marker) for name in names) for marker in markers):
                return layout, prefix
    return None


def _names(keys: Iterable[str], prefix: str) -> dict[str, str]:
    """The keys that begin with `prefix`, mapped to the rest; text encoders' `text_model.` goes too.

    `model_ema.` holds a second copy of a training checkpoint's weights.
    """
    return {
        key: key.removeprefix(prefix).removeprefix("text_model.")
        for key in keys
        if key.startswith(prefix) and not key.startswith("model_ema.")
    }


def _foreign(keys: Iterable[str]) -> str | None:
    """What else than SDXL a file with these keys is, if that shows."""
    for pattern, what in _FOREIGN.items():
        if any(re.search(pattern, key) for key in keys):
            return what
    return None


def _contents(keys: Iterable[str]) -> str:
    """What a file with these keys seems to hold, for errors."""
    keys = list(keys)
    if foreign := _foreign(keys):
        return foreign
    # by layout and prefix: a text encoder alone that passes for either is the one that projects
    roles = {layout_of(keys, role): role for role in _PREFIXES}
    roles.pop(None, None)
    if "unet" not in roles.values() and any(re.match(_ANY_UNET, key) for key in keys):
        return "a UNet other than SDXL's, as of Stable Diffusion 1 or 2"
    if roles:
        return f"{' and '.join(roles.values())} weights only"
    return f"tensors such as {keys[0]!r}" if keys else "no tensors"


def _check_width(
    tensors: Mapping[str, Tensor], role: Role, config: Mapping[str, Any], origin: str
) -> None:
    """Refuse one text encoder in the other's place: their keys are alike."""
    if _TOKEN_EMBEDDING not in tensors or "hidden_size" not in config:
        return  # whoever loads the tensors says what is missing
    width, expected = tensors[_TOKEN_EMBEDDING].shape[-1], config["hidden_size"]
    if width != expected:
        raise ExportError(
            f"the text encoder in {origin} is {width} wide, {role} is {expected}; it seems to be "
            "the other text encoder, pass each in its own place"
        )


def _as_it_is(tensors: dict[str, Tensor], _: Mapping[str, Any]) -> dict[str, Tensor]:
    return tensors


def _unet_from_original(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    prefixed = {_LDM.LDM_UNET_KEY + name: tensor for name, tensor in tensors.items()}
    converted: dict[str, Tensor] = _LDM.convert_ldm_unet_checkpoint(prefixed, config)
    return converted


def _vae_from_original(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = _LDM.convert_ldm_vae_checkpoint(tensors, config)
    return converted


def _vae_from_diffusers(tensors: dict[str, Tensor], _: Mapping[str, Any]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".attentions." not in name:
            renamed[name] = tensor
            continue
        *path, last, kind = name.split(".")
        linear = tensor.flatten(1) if tensor.ndim > 2 else tensor  # from a 1x1 convolution
        renamed[".".join([*path, _OLD_VAE_ATTENTION.get(last, last), kind])] = linear
    return renamed


def _clip(tensors: dict[str, Tensor], _: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name if name.startswith("text_projection.") else f"text_model.{name}": tensor
        for name, tensor in tensors.items()
    }


def _open_clip(tensors: dict[str, Tensor], _: Mapping[str, Any]) -> dict[str, Tensor]:
    """What diffusers' convert_open_clip_checkpoint does, which clones the fused projections."""
    tables = _LDM.DIFFUSERS_TO_LDM_MAPPING["openclip"]
    renamed = {new: tensors[old] for new, old in tables["layers"].items() if old in tensors}
    if "text_projection" in tensors:
        renamed["text_projection.weight"] = tensors["text_projection"].T
    elif "text_projection.weight" in tensors:  # saved as a linear layer's, already transposed
        renamed["text_projection.weight"] = tensors["text_projection.weight"]
    for key, tensor in tensors.items():
        if not key.startswith("transformer.resblocks."):
            continue
        name = key.removeprefix("transformer.")
        for new, old in tables["transformer"].items():
            name = name.replace(old, new)
        stem, fused, kind = name.partition("in_proj_")
        if fused:
            parts = tensor.view(3, -1, *tensor.shape[1:]).unbind()
            renamed |= {f"{stem}{part}_proj.{kind}": parts[i] for i, part in enumerate("qkv")}
        else:
            renamed[name] = tensor
    return renamed


_Conversion = Callable[[dict[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]
_CONVERSIONS: dict[tuple[Role, Layout], _Conversion] = {
    ("unet", Layout.DIFFUSERS): _as_it_is,
    ("unet", Layout.ORIGINAL): _unet_from_original,
    ("vae", Layout.DIFFUSERS): _vae_from_diffusers,
    ("vae", Layout.ORIGINAL): _vae_from_original,
    ("text_encoder", Layout.DIFFUSERS): _clip,
    ("text_encoder", Layout.ORIGINAL): _open_clip,
    ("text_encoder_2", Layout.DIFFUSERS): _clip,
    ("text_encoder_2", Layout.ORIGINAL): _open_clip,
}
