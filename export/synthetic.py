"""Architectures for synthetic weights: SDXL base 1.0, and its topology in miniature."""

from collections.abc import Mapping
from typing import Any

from .base import SDXL, read_config

_FOLDERS = ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler")
_TINY: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": [8, 16, 24],
        "transformer_layers_per_block": [1, 1, 2],
        "attention_head_dim": [1, 2, 3],
        "norm_num_groups": 4,
        "cross_attention_dim": 40,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
    },
    "vae": {
        "block_out_channels": [4, 8, 8, 12],
        "norm_num_groups": 2,
        "sample_size": 64,
        "force_upcast": False,
    },
    "text_encoder": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": 16,
    },
    "text_encoder_2": {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": 24,
    },
}

_FP16_SAFE = {"vae": {"force_upcast": False}}  # nothing overflows with weights of this kind


def synthetic_configs(kind: str) -> dict[str, dict[str, Any]]:
    """Configurations by folder; "tiny" has SDXL's blocks, two encoders and VAE, a few MB in all."""
    changes = _TINY if kind == "tiny" else _FP16_SAFE
    return {folder: {**read_config(SDXL, folder), **changes.get(folder, {})} for folder in _FOLDERS}
