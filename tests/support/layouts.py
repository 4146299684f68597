"""One checkpoint, a diffusers folder, written again in every layout that checkpoints come in.

Every function takes the folder and a place to write to, and returns what `--base` would be given.
"""

import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from original_layout import write_original
from safetensors.torch import load_file, save_file
from torch import Tensor

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_SHARD = "8KB"  # the smallest part, a text encoder of 15 KB beside its table, then has several


def weights_file(folder: Path, part: str) -> Path:
    """The one file that a plain folder keeps a part's weights in."""
    (found,) = (folder / part).glob("*.safetensors")
    return found


def without_weights(folder: Path, target: Path) -> Path:
    """The folder's configurations, tokenizers and licence."""
    return shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))


def load_pipeline(folder: Path, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(
        folder, dtype=dtype, local_files_only=True, low_cpu_mem_usage=False, add_watermarker=False
    )


def float32_folder(folder: Path, target: Path) -> Path:
    load_pipeline(folder, torch.float32).save_pretrained(target)
    return target


def shards(folder: Path, target: Path) -> Path:
    load_pipeline(folder, torch.float16).save_pretrained(target, max_shard_size=_SHARD)
    for part in PARTS:
        assert len(list((target / part).glob("*-of-*.safetensors"))) >= 3, part
    return target


def half_beside_single(folder: Path, target: Path) -> Path:
    """`.fp16.` files, and beside them a full float32 set with other values."""
    load_pipeline(folder, torch.float16).save_pretrained(target, variant="fp16")
    for part in PARTS:
        half = weights_file(target, part)
        other = {key: 2 * tensor.float() + 1 for key, tensor in load_file(half).items()}
        save_file(other, half.with_name(half.name.replace(".fp16.", ".")))
    return target


def pickles(folder: Path, target: Path) -> Path:
    """torch's `.bin` files, as diffusers and transformers named them; parameters, not tensors."""
    without_weights(folder, target)
    for part in PARTS:
        name = "pytorch_model" if part.startswith("text") else "diffusion_pytorch_model"
        tensors = load_file(weights_file(folder, part))
        parameters = {key: torch.nn.Parameter(tensor) for key, tensor in tensors.items()}
        torch.save(parameters, target / part / f"{name}.bin")
    return target


def original_file(folder: Path, target: Path) -> Path:
    """Everything in one file, as the original SDXL code and ComfyUI name it."""
    target.mkdir()
    return write_original(load_pipeline(folder, torch.float16), target / "sdxl.safetensors")


def diffusers_file(folder: Path, target: Path) -> Path:
    """Everything in one file under the folder's own keys, each with its part's name before it."""
    tensors: dict[str, Tensor] = {}
    for part in PARTS:
        own = load_file(weights_file(folder, part))
        tensors |= {f"{part}.{key}": tensor for key, tensor in own.items()}
    target.mkdir()
    save_file(tensors, target / "sdxl.safetensors")
    return target / "sdxl.safetensors"
