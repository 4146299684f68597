"""A diffusers folder on disk: its settings, and its modules one at a time.

One component is loaded, exported and dropped before the next, so memory holds one model at most.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..engine.components import LATENT_CHANNELS, PIXELS_PER_LATENT
from ..engine.errors import ExportError
from ..engine.manifest import SchedulerConstants
from ..scheduler import Prediction

_MODULES: dict[str, tuple[type[Any], str]] = {
    "text_encoder": (CLIPTextModel, "text_encoder"),
    "text_encoder_2": (CLIPTextModelWithProjection, "text_encoder_2"),
    "unet": (UNet2DConditionModel, "unet"),
    "vae_encoder": (AutoencoderKL, "vae"),
    "vae_decoder": (AutoencoderKL, "vae"),
}
_TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_SCHEDULER = "scheduler/scheduler_config.json"
_LICENCE_NAMES = ("LICEN[CS]E*", "NOTICE*", "PROVENANCE*", "README*")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiffusersFolder:
    """A `StableDiffusionXLPipeline` saved by diffusers, checked to be one SDXL-shaped model."""

    path: Path

    def __post_init__(self) -> None:
        for name in (_SCHEDULER, "unet/config.json", "vae/config.json"):
            if not (self.path / name).is_file():
                raise ExportError(
                    f"{self.path} is not a diffusers SDXL folder: {name} is missing; pass the "
                    "folder that holds model_index.json"
                )
        unet = self._config("unet/config.json")
        embedding, channels = unet.get("addition_embed_type"), unet.get("in_channels")
        if embedding != "text_time" or channels != LATENT_CHANNELS:
            raise ExportError(
                f"{self.path}/unet is not a 4-channel SDXL UNet (addition_embed_type "
                f"{embedding!r}, in_channels {channels}); pass an SDXL checkpoint"
            )
        factor = 2 ** (len(self._setting("vae/config.json", "block_out_channels")) - 1)
        if factor != PIXELS_PER_LATENT:
            raise ExportError(f"{self.path}/vae scales by {factor}, not 8; pass an SDXL checkpoint")

    def load(self, role: str, dtype: torch.dtype) -> nn.Module:
        """The module of `role` in eval mode, its weights cast to `dtype`."""
        kind, folder = _MODULES[role]
        options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
        if not role.startswith("text_encoder"):
            options["low_cpu_mem_usage"] = False  # diffusers' default needs accelerate
        try:
            module = kind.from_pretrained(self.path, subfolder=folder, **options)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ExportError(
                f"{self.path / folder} cannot be loaded ({error}); copy the checkpoint again"
            ) from error
        loaded: nn.Module = module.eval().requires_grad_(False)
        return loaded

    def tokenizer(self, role: str) -> CLIPTokenizer:
        """The tokenizer that feeds the text encoder of `role`."""
        folder = _TOKENIZERS[role]
        try:
            tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(
                self.path, subfolder=folder, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise ExportError(
                f"{self.path / folder} cannot be loaded ({error}); copy the checkpoint again"
            ) from error
        # transformers makes an empty tokenizer where there are no files
        vocabulary, rows = len(tokenizer), self._setting(f"{role}/config.json", "vocab_size")
        if vocabulary != rows:
            raise ExportError(
                f"{self.path / folder} knows {vocabulary} tokens, {role} {rows}; "
                "copy the checkpoint's tokenizer files again"
            )
        return tokenizer

    @property
    def prediction(self) -> Prediction:
        """What the UNet was trained to predict, by the scheduler's configuration."""
        kind = self._setting(_SCHEDULER, "prediction_type")
        try:
            return Prediction(kind)
        except ValueError:
            known = ", ".join(Prediction)
            raise ExportError(f"prediction_type {kind!r} is not one of {known}") from None

    @property
    def scheduler(self) -> SchedulerConstants:
        """The noise process; any but scaled_linear is refused, spacing becomes trailing."""
        betas = self._setting(_SCHEDULER, "beta_schedule")
        spacing = self._setting(_SCHEDULER, "timestep_spacing")
        if betas != "scaled_linear":
            raise ExportError(f"beta_schedule {betas!r} is not scaled_linear, as SDXL's is")
        if spacing != "trailing":
            logger.warning("timestep_spacing %r is replaced by trailing, as Lightning's", spacing)
        return SchedulerConstants(
            num_train_timesteps=self._setting(_SCHEDULER, "num_train_timesteps"),
            beta_start=self._setting(_SCHEDULER, "beta_start"),
            beta_end=self._setting(_SCHEDULER, "beta_end"),
            beta_schedule="scaled_linear",
            timestep_spacing="trailing",
        )

    @property
    def vae_scaling_factor(self) -> float:
        """What latents are multiplied by after encoding."""
        return float(self._setting("vae/config.json", "scaling_factor"))

    @property
    def licence_files(self) -> list[Path]:
        """Licence, notice and provenance texts beside the weights, to travel with them."""
        return sorted(
            path for name in _LICENCE_NAMES for path in self.path.glob(name) if path.is_file()
        )

    def _setting(self, name: str, key: str) -> Any:
        config = self._config(name)
        if key not in config:
            raise ExportError(f"{self.path / name} has no {key!r}; pass an SDXL checkpoint")
        return config[key]

    def _config(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ExportError(
                f"{path} cannot be read ({error}); copy the checkpoint again"
            ) from error
        return loaded
