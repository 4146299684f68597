"""Every component in miniature with synthetic weights, the optional ones too, as exports make it.

The shapes are those of `--synthetic tiny`: where a test run has exported that, no trace is made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from run_directory import made_once

from lightfill.engine.components import CONTRACTS
from lightfill.engine.manifest import Arithmetic
from lightfill.export.architecture import Architecture, build
from lightfill.export.graph_cache import traced
from lightfill.export.synthetic import synthetic_configs
from lightfill.export.tensors import SyntheticWeights
from lightfill.export.weights_file import write_component

_SDXL = synthetic_configs("tiny")
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "text_encoder": _SDXL["text_encoder"],
    "text_encoder_2": _SDXL["text_encoder_2"],
    "unet": _SDXL["unet"],
    "vae_encoder": _SDXL["vae"],
    "vae_decoder": _SDXL["vae"],
    "safety_checker": {
        "model_type": "clip",
        "projection_dim": 16,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 56,
        },
    },
    "prompt_expander": {
        "model_type": "gpt2",
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 32,
        "n_positions": 64,
        "vocab_size": 97,
    },
}


def architecture_of(role: str) -> Architecture:
    return build(role, CONFIGS[role], f"tiny {role}")


def weights_of(role: str) -> SyntheticWeights:
    return SyntheticWeights(architecture_of(role).shapes, "tests")


def graphs_in(directory: Path, role: str) -> dict[Arithmetic, Path]:
    """Both graphs of a component and their weights, float16, written on the first call."""
    folder = directory / f"tiny-{role}"
    arithmetics: tuple[Arithmetic, ...] = ("float32", "float16")
    with made_once(folder) as missing:
        if missing:
            graphs = {name: traced(architecture_of(role), name) for name in arithmetics}
            inputs = len(CONTRACTS[role].inputs)
            folder.mkdir()
            write_component(graphs, inputs, weights_of(role), torch.float16, folder, lambda _: None)
    return {arithmetic: folder / f"{arithmetic}.onnx" for arithmetic in arithmetics}
