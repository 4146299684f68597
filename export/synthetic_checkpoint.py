"""`python -m lightfill.export.synthetic_checkpoint DIR`: synthetic weights as a diffusers folder.

The same numbers that `lightfill export --synthetic` puts into a bundle, for programs that load
checkpoints: peers can then be measured on the weights that lightfill runs.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..engine.atomic_write import write_atomically
from .base import SyntheticBase, kind_of
from .synthetic import synthetic_configs

_TOKENIZERS = Path(__file__).parent / "demo" / "lightfill-demo"
"""CLIP's vocabulary, which every SDXL checkpoint has."""
_CLASSES = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
}
_WEIGHTS = {
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def main() -> None:
    """Write SDXL's; 7 GB, with the UNet's 5 in memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kind", choices=("sdxl", "tiny"), default="sdxl")
    asked = parser.parse_args()
    write_checkpoint(asked.kind, asked.directory)
    print(asked.directory)


def write_checkpoint(kind: str, directory: Path) -> None:
    """Every part in float16. `model_index.json` comes last: a folder without it is not complete."""
    configs = synthetic_configs(kind)
    base = SyntheticBase(kind, configs)
    for folder, file in _WEIGHTS.items():
        shapes = {
            _key(folder, name): tuple(value.shape)
            for name, value in _module(folder, configs[folder]).named_parameters()
        }
        weights = base.weights(kind_of(folder), shapes)
        tensors = {key: weights.read(key).to(torch.float16).contiguous() for key in shapes}
        place = directory / folder
        place.mkdir(parents=True, exist_ok=True)
        save_file(tensors, place / file, metadata={"format": "pt"})
        _write_json(place / "config.json", configs[folder])
        del tensors
    _write_json(directory / "scheduler" / "scheduler_config.json", configs["scheduler"])
    for folder in ("tokenizer", "tokenizer_2"):
        shutil.copytree(_TOKENIZERS / folder, directory / folder, dirs_exist_ok=True)
    index = {"_class_name": "StableDiffusionXLPipeline", "_diffusers_version": "0.42.1"}
    _write_json(directory / "model_index.json", {**index, **_CLASSES})


def _module(folder: str, config: Mapping[str, Any]) -> nn.Module:
    """Names and shapes only: nothing is allocated."""
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    text: Any = CLIPTextModel if folder == "text_encoder" else CLIPTextModelWithProjection
    autoencoder: Any = UNet2DConditionModel if folder == "unet" else AutoencoderKL
    with torch.device("meta"):
        module: nn.Module = (
            text(CLIPTextConfig(**settings))
            if folder.startswith("text_encoder")
            else autoencoder.from_config(settings)
        )
    return module


def _key(folder: str, name: str) -> str:
    """As checkpoints have it: transformers 5 drops `text_model.` in memory."""
    plain = folder == "text_encoder" and not name.startswith("text_model.")
    return f"text_model.{name}" if plain else name


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
