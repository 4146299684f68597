"""The trained model as a diffusers folder: float16 weights, SDXL's layout, one vocabulary."""

import json
import shutil
from pathlib import Path

import torch
from torch import nn

from .architecture import DemoModel

EARLIER = Path(__file__).parent / "lightfill-demo"
"""Whose vocabulary, licences and scheduler stay."""
_KEPT = ("tokenizer", "tokenizer_2", "scheduler", "model_index.json")


def save(model: DemoModel, folder: Path) -> None:
    """Write `folder`, complete or not at all; what was there is replaced."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in _KEPT:
        source = EARLIER / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, partial / name)
    for licence in EARLIER.glob("*.txt"):
        shutil.copy(licence, partial)
    _require_v_prediction(partial / "scheduler" / "scheduler_config.json")
    for name in ("text_encoder", "text_encoder_2", "vae", "unet"):
        part: nn.Module = getattr(model, name)
        _halved(part).save_pretrained(partial / name)  # type: ignore[operator]
        part.float()
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def rounded(part: nn.Module) -> None:
    """Weights to what float16 holds, in place: what is measured must be what is shipped."""
    with torch.no_grad():
        for weight in part.parameters():
            weight.copy_(weight.half().float())


def _halved(part: nn.Module) -> nn.Module:
    return part.half()


def _require_v_prediction(path: Path) -> None:
    if json.loads(path.read_text())["prediction_type"] != "v_prediction":
        raise ValueError(f"{path} must say v_prediction, which the UNet is trained for")
