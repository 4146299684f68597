"""A tiny SDXL with the real one's block structure, and random LoRAs for it in every layout.

The names are built here from the structure of the two UNets, not by the converters under test.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CONTEXT = 24
POOLED = 16
ROLES = ("unet", "text_encoder", "text_encoder_2")


def pipeline() -> StableDiffusionXLPipeline:
    """The same weights at every call, float32."""
    torch.manual_seed(0)
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=text_encoder(CLIPTextModel, CONTEXT - POOLED),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, POOLED),
        tokenizer=None,
        tokenizer_2=None,
        unet=UNet2DConditionModel(**UNET),
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )


UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 8, 16),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (1, 2, 4),
    "norm_num_groups": 4,
    "cross_attention_dim": CONTEXT,
    "transformer_layers_per_block": (1, 1, 1),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": POOLED + 6 * 8,
}


def text_encoder(kind: type[nn.Module], width: int) -> nn.Module:
    return kind(
        CLIPTextConfig(
            vocab_size=50,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=width,
            bos_token_id=48,
            eos_token_id=49,
        )
    )


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.clone() for key, value in tensors.items()}, path, metadata)
    return path


@dataclass(frozen=True)
class Pair:
    """A LoRA of one layer; without alpha the file says nothing of it."""

    role: str
    module: str
    down: Tensor
    up: Tensor
    alpha: float | None = None


def pairs(
    model: StableDiffusionXLPipeline,
    *,
    only: str = "",
    rank: int = 3,
    alpha: Callable[[str], float | None] = lambda module: None,
    seed: int = 1,
) -> list[Pair]:
    """For every linear and convolution layer whose `role.module` contains the pattern."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for role, module, layer in layers(model):
        if re.search(only, f"{role}.{module}"):
            outputs, inputs, *kernel = layer.weight.shape
            down = torch.randn(rank, inputs, *kernel, generator=generator) / 10
            up = torch.randn(outputs, rank, *[1 for _ in kernel], generator=generator)
            found.append(Pair(role, module, down, up, alpha(module)))
    assert found, only
    return found


def layers(model: StableDiffusionXLPipeline) -> Iterator[tuple[str, str, nn.Module]]:
    """Role, name as published checkpoints spell it, and layer."""
    for role in ROLES:
        for name, layer in getattr(model, role).named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                yield role, checkpoint_name(role, name), layer


def checkpoint_name(role: str, name: str) -> str:
    """transformers 5 builds the first text encoder without the part `text_model`."""
    return f"text_model.{name}" if role == "text_encoder" else name


def built_name(role: str, name: str) -> str:
    return name.removeprefix("text_model.") if role == "text_encoder" else name


def kohya(lora: list[Pair], spell: Callable[[str], str] = str) -> dict[str, Tensor]:
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    file = {}
    for pair in lora:
        module = spell(pair.module) if pair.role == "unet" else pair.module
        name = prefixes[pair.role] + module.replace(".", "_")
        file[f"{name}.lora_down.weight"] = pair.down
        file[f"{name}.lora_up.weight"] = pair.up
        if pair.alpha is not None:
            file[f"{name}.alpha"] = torch.tensor(pair.alpha)
    return file


def alpha_settings(lora: list[Pair]) -> dict[str, str]:
    """A safetensors header that gives every layer its alpha the way diffusers records it."""
    settings: dict[str, Any] = {}
    for role in {pair.role for pair in lora}:
        own = {pair.module: pair for pair in lora if pair.role == role}
        settings[f"{role}.r"] = next(iter(own.values())).down.shape[0]
        settings[f"{role}.target_modules"] = [built_name(role, module) for module in own]
        settings[f"{role}.alpha_pattern"] = {
            f"^{built_name(role, module)}": pair.alpha for module, pair in own.items()
        }
    return {"lora_adapter_metadata": json.dumps(settings)}


def kohya_sgm(lora: list[Pair]) -> dict[str, Tensor]:
    return kohya(lora, sgm_name)


def peft(lora: list[Pair]) -> dict[str, Tensor]:
    file = {}
    for pair in lora:
        file[f"{pair.role}.{pair.module}.lora_A.weight"] = pair.down
        file[f"{pair.role}.{pair.module}.lora_B.weight"] = pair.up
    return file


def diffusers(lora: list[Pair]) -> dict[str, Tensor]:
    file = {}
    for pair in lora:
        linear = pair.role != "unet" and pair.module != "text_projection"
        infix = "lora_linear_layer" if linear else "lora"
        file[f"{pair.role}.{pair.module}.{infix}.down.weight"] = pair.down
        file[f"{pair.role}.{pair.module}.{infix}.up.weight"] = pair.up
    return file


def diffusers_old(lora: list[Pair]) -> dict[str, Tensor]:
    """Attention processors held the matrices; the text encoders' attention borrowed the names."""
    file = {}
    for pair in lora:
        name = re.sub(r"\.(to_[qkv])$", r".processor.\1_lora", pair.module)
        name = re.sub(r"\.to_out\.0$", ".processor.to_out_lora", name)
        name = re.sub(r"\.([qkv])_proj$", r".to_\1_lora", name)
        name = re.sub(r"\.out_proj$", ".to_out_lora", name)
        if name == pair.module:
            name += ".lora" if pair.role == "unet" else ".lora_linear_layer"
        file[f"{pair.role}.{name}.down.weight"] = pair.down
        file[f"{pair.role}.{name}.up.weight"] = pair.up
    return file


def sgm_name(module: str) -> str:
    """What the original SDXL code calls a module of diffusers' UNet of three blocks of two layers.

    Its blocks are flat lists: the input, then per block two layers and a downsampler (`op`); three
    in the middle; per block three layers, an upsampler beside the third.
    """
    outside = {
        "conv_in": "input_blocks.0.0",
        "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }
    if module in outside:
        return outside[module]
    block = re.compile(r"(down|mid|up)_blocks?(?:\.(\d))?\.(\w+)\.(\d)\.(.+)")
    side, index, kind, layer, rest = block.fullmatch(module).groups()
    number, place = 3 * int(index or 0), int(layer)
    if kind == "downsamplers":
        return f"input_blocks.{number + 3}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{number + 2}.2.{rest}"
    if kind == "resnets":
        for ours, theirs in RESNET.items():
            rest = rest.replace(ours, theirs)
    inner = int(kind == "attentions")
    if side == "mid":
        return f"middle_block.{1 if inner else 2 * place}.{rest}"
    if side == "down":
        return f"input_blocks.{number + place + 1}.{inner}.{rest}"
    return f"output_blocks.{number + place}.{inner}.{rest}"


RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
