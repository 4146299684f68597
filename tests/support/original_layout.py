"""A tiny random SDXL, and its single file in the original layout (Stability's, ComfyUI's).

The mapping walks diffusers' modules in the order in which the original numbers its blocks. It
shares nothing with the conversion that it tests; diffusers' `from_single_file` is its judge.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

_TOKENIZERS = Path(__file__).parents[2] / "export" / "demo" / "lightfill-demo"
_SCALING_FACTOR = 0.13025
_WIDTHS = {"text_encoder": 16, "text_encoder_2": 24}
_TIME_WIDTH = 8

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE = {
    r"(down_blocks|up_blocks)\.(\d+)\.resnets\.(\d+)": r"\1.\2.block.\3",
    r"down_blocks\.(\d+)\.downsamplers\.0\.": r"down.\1.downsample.",
    r"up_blocks\.(\d+)\.upsamplers\.0\.": r"up.\1.upsample.",
    r"(down|up)_blocks\.": r"\1.",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"conv_norm_out": "norm_out",
    r"conv_shortcut": "nin_shortcut",
    r"group_norm": "norm",
    r"to_([qkv])": r"\1",
    r"to_out\.0": "proj_out",
}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def tiny_sdxl() -> StableDiffusionXLPipeline:
    """Random weights in SDXL's topology, no two tensors alike, activations of usual size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other over tensors of a few kilobytes
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return _pipeline()
    finally:
        torch.set_num_threads(threads)


def write_original(
    pipeline: StableDiffusionXLPipeline, path: Path, dtype: torch.dtype = torch.float16
) -> Path:
    """All components as one safetensors file in the original layout."""
    tensors = original_tensors(pipeline).items()
    save_file({key: tensor.to(dtype).contiguous() for key, tensor in tensors}, path)
    return path


def original_tensors(pipeline: StableDiffusionXLPipeline) -> dict[str, Tensor]:
    """The pipeline's tensors under the keys that SDXL's single files have."""
    parts = {
        "model.diffusion_model.": original_unet(pipeline.unet),
        "first_stage_model.": original_vae(pipeline.vae),
        "conditioner.embedders.0.transformer.": original_clip(pipeline.text_encoder),
        "conditioner.embedders.1.model.": original_open_clip(pipeline.text_encoder_2),
    }
    return {prefix + key: tensor for prefix, part in parts.items() for key, tensor in part.items()}


def original_unet(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The UNet's tensors by original keys, without prefix."""
    tensors: dict[str, Tensor] = {}
    for path, place in _unet_places(unet):
        for key, tensor in unet.get_submodule(path).state_dict().items():
            inner, _, rest = key.partition(".")
            if ".resnets." in path:
                inner = _RESNET[inner]
            tensors[f"{place}.{inner}.{rest}" if rest else f"{place}.{inner}"] = tensor
    assert len(tensors) == len(unet.state_dict())
    return tensors


def _unet_places(unet: UNet2DConditionModel) -> Iterator[tuple[str, str]]:
    """Module paths, diffusers' and the original's; the original numbers layers, not blocks."""
    yield from (
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_in", "input_blocks.0.0"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
    )
    number = 1  # 0 is conv_in
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            yield f"down_blocks.{i}.resnets.{j}", f"input_blocks.{number}.0"
            if hasattr(block, "attentions"):
                yield f"down_blocks.{i}.attentions.{j}", f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers is not None:
            yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for i, block in enumerate(unet.up_blocks):
        for j in range(len(block.resnets)):
            place = f"output_blocks.{number}"
            yield f"up_blocks.{i}.resnets.{j}", f"{place}.0"
            attends = hasattr(block, "attentions")
            if attends:
                yield f"up_blocks.{i}.attentions.{j}", f"{place}.1"
            if block.upsamplers is not None and j == len(block.resnets) - 1:
                yield f"up_blocks.{i}.upsamplers.0.conv", f"{place}.{1 + attends}.conv"
            number += 1


def original_vae(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The VAE's tensors by original keys, without prefix; attention as 1x1 convolutions."""
    last = len(vae.decoder.up_blocks) - 1
    tensors: dict[str, Tensor] = {}
    for key, tensor in vae.state_dict().items():
        # the original counts the decoder's blocks from the picture
        name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up_blocks.{last - int(found[1])}", key)
        for pattern, replacement in _VAE.items():
            name = re.sub(pattern, replacement, name)
        linear = "attentions" in key and tensor.ndim == 2
        tensors[name] = tensor[:, :, None, None] if linear else tensor
    assert len(tensors) == len(vae.state_dict())
    return tensors


def original_clip(text_encoder: CLIPTextModel) -> dict[str, Tensor]:
    """The first text encoder's tensors: as transformers had them before it dropped text_model."""
    tensors = {
        f"text_model.{key.removeprefix('text_model.')}": tensor
        for key, tensor in text_encoder.state_dict().items()
    }
    return tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def original_open_clip(text_encoder: CLIPTextModelWithProjection) -> dict[str, Tensor]:
    """The second text encoder's tensors as OpenCLIP names them, queries to values fused."""
    model = text_encoder.text_model
    tensors = {
        "token_embedding.weight": model.embeddings.token_embedding.weight,
        "positional_embedding": model.embeddings.position_embedding.weight,
        "ln_final.weight": model.final_layer_norm.weight,
        "ln_final.bias": model.final_layer_norm.bias,
        "text_projection": text_encoder.text_projection.weight.T,
        "logit_scale": torch.tensor(4.6),
    }
    for i, layer in enumerate(model.encoder.layers):
        place = f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            parts = [getattr(layer.self_attn, f"{name}_proj") for name in "qkv"]
            tensors[f"{place}.attn.in_proj_{kind}"] = torch.cat([getattr(p, kind) for p in parts])
            for path, name in _OPEN_CLIP.items():
                tensors[f"{place}.{name}.{kind}"] = getattr(layer.get_submodule(path), kind)
    return tensors


def _pipeline() -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(CLIPTextModel, "text_encoder", "quick_gelu"),
        text_encoder_2=_text_encoder(CLIPTextModelWithProjection, "text_encoder_2", "gelu"),
        unet=_unet(),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            timestep_spacing="trailing",
            prediction_type="epsilon",
        ),
        tokenizer=CLIPTokenizer.from_pretrained(_TOKENIZERS / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(_TOKENIZERS / "tokenizer_2"),
        add_watermarker=False,
    )
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
    return pipeline


def _text_encoder(kind: type[nn.Module], name: str, activation: str) -> nn.Module:
    width = _WIDTHS[name]
    return _varied(
        kind(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=3,
                num_attention_heads=2,
                projection_dim=width,
                hidden_act=activation,
                bos_token_id=49406,
                eos_token_id=49407,
            )
        )
    )


def _unet() -> UNet2DConditionModel:
    context = sum(_WIDTHS.values())
    pooled = _WIDTHS["text_encoder_2"]
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 24),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2, 3),
        norm_num_groups=4,
        cross_attention_dim=context,
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=pooled + 6 * _TIME_WIDTH,
    )
    conditions = {"text_embeds": torch.randn(1, pooled), "time_ids": torch.full((1, 6), 64.0)}

    def predict() -> Tensor:
        noise = torch.randn(1, 4, 16, 16)
        return unet(noise, 500.0, torch.randn(1, 77, context), added_cond_kwargs=conditions).sample

    _scale(_varied(unet).conv_out, predict, 1.0)
    return unet


def _vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8, 12),
        layers_per_block=2,
        norm_num_groups=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=_SCALING_FACTOR,
        sample_size=64,
        force_upcast=False,
    )
    _varied(vae)
    picture = nn.functional.interpolate(torch.rand(1, 3, 8, 8) * 2 - 1, scale_factor=16)
    _scale(vae.quant_conv, lambda: vae.quant_conv(vae.encoder(picture)), 1 / _SCALING_FACTOR)
    with torch.no_grad():
        vae.quant_conv.weight[4:] *= _SCALING_FACTOR  # log-variances: modest, around -1
        vae.quant_conv.bias[4:] = -1.0
    latents = torch.randn(1, 4, 16, 16) / _SCALING_FACTOR
    _scale(vae.decoder.conv_out, lambda: vae.decode(latents).sample, 0.4)
    return vae


@torch.no_grad()
def _varied(module: nn.Module) -> nn.Module:
    """Make tensors that start as zeros or ones differ from each other, so that none can swap."""
    for parameter in module.parameters():
        if parameter.std() == 0:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module


@torch.no_grad()
def _scale(last: nn.Conv2d, outputs: Callable[[], Tensor], std: float) -> None:
    """Scale and shift the last layer so that the outputs have mean 0 and this deviation."""
    found = outputs()
    last.bias -= found.mean((0, 2, 3))
    factor = std / (found - found.mean((2, 3), keepdim=True)).std()
    last.weight *= factor
    last.bias *= factor
