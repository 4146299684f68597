"""The embedded model's parts: SDXL's exact topology in 7 million parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from .linear_vae import linear_vae

TOKENS = 77
_TOWER: Mapping[str, Any] = {
    "vocab_size": 49408, "max_position_embeddings": TOKENS, "bos_token_id": 49406,
    "eos_token_id": 49407, "pad_token_id": 1,
}  # fmt: skip
_UNET_CHANNELS = (48, 80, 128)


@dataclass
class DemoModel:
    """text_encoder, text_encoder_2: CLIPTextModel and CLIPTextModelWithProjection of transformers.

    vae, unet: AutoencoderKL and UNet2DConditionModel of diffusers, which has no types.
    """

    text_encoder: Any
    text_encoder_2: Any
    vae: Any
    unet: Any


def new_model(seed: int) -> DemoModel:
    """Untrained; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return DemoModel(
        CLIPTextModel(
            CLIPTextConfig(
                hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                hidden_act="quick_gelu", projection_dim=32, **_TOWER,
            )
        ),
        CLIPTextModelWithProjection(
            CLIPTextConfig(
                hidden_size=48, intermediate_size=192, num_hidden_layers=3, num_attention_heads=2,
                hidden_act="gelu", projection_dim=48, **_TOWER,
            )
        ),
        linear_vae(),
        _unet(),
    )  # fmt: skip


def read_model(folder: Path) -> DemoModel:
    """From a diffusers folder, in float32."""
    readers: dict[str, Any] = {
        "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection,
        "vae": AutoencoderKL, "unet": UNet2DConditionModel,
    }  # fmt: skip
    parts = {name: reader.from_pretrained(folder / name) for name, reader in readers.items()}
    return DemoModel(**{name: part.float() for name, part in parts.items()})


def _unet() -> Any:
    return UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=_UNET_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(1, 2, 4),  # SDXL's configurations name the number of heads so
        cross_attention_dim=32 + 48,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=48 + 6 * 32,
    )
