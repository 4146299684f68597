"""A random SDXL-shaped checkpoint, as small as the topology allows, and its bundle.

Weights are drawn from a fixed seed, then the last layers are scaled so that nothing vanishes or
saturates: noise predictions of unit variance, latents of unit variance, pictures of middling grey.
Random epsilon weights exercise what the trained demo model (v-prediction) does not.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lightfill.export.bundle_writer import ExportOptions, export_bundle

ROOT = Path(__file__).parents[2]
DEMO_CHECKPOINT = ROOT / "export" / "demo" / "checkpoint"
SCALING_FACTOR = 0.13025
WIDTHS = {"text_encoder": 16, "text_encoder_2": 24}
_TIME_WIDTH = 8


def checkpoint_in(directory: Path) -> Path:
    """The checkpoint as a diffusers folder, float16, written on the first call."""
    folder = directory / "random-checkpoint"
    if not folder.exists():
        _pipeline().to(torch.float16).save_pretrained(folder)
        (folder / "LICENSE.md").write_text("Random numbers; do what you like.\n")
    return folder


def bundle_in(directory: Path) -> Path:
    """The checkpoint's bundle, float32 graphs only, exported on the first call (about a minute)."""
    bundle = directory / "random-bundle"
    if not bundle.exists():
        options = ExportOptions(name="random", natural_size=64, arithmetics=("float32",))
        export_bundle(checkpoint_in(directory), bundle, options)
    return bundle


def _pipeline() -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    return StableDiffusionXLPipeline(
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
        tokenizer=CLIPTokenizer.from_pretrained(DEMO_CHECKPOINT / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(DEMO_CHECKPOINT / "tokenizer_2"),
        add_watermarker=False,
    )


def _text_encoder(kind: type[nn.Module], name: str, activation: str) -> nn.Module:
    width = WIDTHS[name]
    return kind(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=width,
            hidden_act=activation,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    )


def _unet() -> UNet2DConditionModel:
    context = sum(WIDTHS.values())
    pooled = WIDTHS["text_encoder_2"]
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        cross_attention_dim=context,
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=pooled + 6 * _TIME_WIDTH,
    )
    conditions = {"text_embeds": torch.randn(1, pooled), "time_ids": torch.full((1, 6), 64.0)}

    def predict() -> Tensor:
        noise = torch.randn(1, 4, 16, 16)
        return unet(noise, 500.0, torch.randn(1, 77, context), added_cond_kwargs=conditions).sample

    _scale(unet.conv_out, predict, 1.0)
    return unet


def _vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=SCALING_FACTOR,
        sample_size=64,
        force_upcast=False,
    )
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8) * 2 - 1, scale_factor=16)
    _scale(vae.quant_conv, lambda: vae.quant_conv(vae.encoder(picture)), 1 / SCALING_FACTOR)
    with torch.no_grad():
        vae.quant_conv.weight[4:] *= SCALING_FACTOR  # log-variances: modest, around -1
        vae.quant_conv.bias[4:] = -1.0
    latents = torch.randn(1, 4, 16, 16) / SCALING_FACTOR
    _scale(vae.decoder.conv_out, lambda: vae.decode(latents).sample, 0.4)
    return vae


@torch.no_grad()
def _scale(last: nn.Conv2d, outputs: Callable[[], Tensor], std: float) -> None:
    """Scale and shift the last layer so that the outputs have mean 0 and this deviation."""
    found = outputs()
    last.bias -= found.mean((0, 2, 3))
    factor = std / (found - found.mean((2, 3), keepdim=True)).std()
    last.weight *= factor
    last.bias *= factor
