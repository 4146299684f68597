"""A component's module built from its configuration alone: on torch's meta device, without weights.

Shapes, names and code are all a trace needs, so a 2.6-billion-parameter UNet costs no memory until
its weights are read, one tensor at a time, under the keys listed here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..engine.errors import ExportError
from .prompt_expander import prompt_expander_model
from .safety_checker import safety_checker_model
from .wrappers import WRAPPERS

TABLE_KEY = "text_model.embeddings.token_embedding.weight"
"""The token embedding of both text encoders, which stays outside their graphs."""

_NOT_ARCHITECTURE = {
    "architectures", "dtype", "torch_dtype", "transformers_version", "force_upcast",
    "bos_token_id", "eos_token_id", "pad_token_id",
}  # fmt: skip
"""Settings no graph depends on."""


@dataclass(frozen=True)
class Architecture:
    """One component without weights.

    module: the wrapped module on the meta device, in eval mode.
    keys: its parameters' names -> their keys in a checkpoint file.
    shapes: checkpoint key -> shape, for those parameters.
    config: every setting the code of the module depends on, defaults included.
    """

    role: str
    module: nn.Module
    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    config: Mapping[str, Any]

    @property
    def parameters(self) -> int:
        """How many numbers the weights hold."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())


def build(role: str, config: Mapping[str, Any], origin: str) -> Architecture:
    """The architecture `config` describes; `origin` names the configuration in errors."""
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        with torch.device("meta"):
            model = _BUILDERS[role](settings)
    except Exception as error:  # a configuration may hold anything; libraries raise their own
        raise ExportError(
            f"{origin}: its configuration makes no {role} ({error}); pass another checkpoint's"
        ) from error
    model.eval().requires_grad_(False)
    key_of = {id(value): _canonical(role, name) for name, value in model.named_parameters()}
    module = WRAPPERS[role](model).eval()
    parameters = dict(module.named_parameters(remove_duplicate=False))
    keys = {name: key_of[id(value)] for name, value in parameters.items()}
    shapes = {keys[name]: tuple(value.shape) for name, value in parameters.items()}
    return Architecture(role, module, keys, shapes, _settings_of(model))


def _canonical(role: str, name: str) -> str:
    """A parameter's key in checkpoint files; transformers 5 drops `text_model.` in memory."""
    if role == "text_encoder" and not name.startswith("text_model."):
        return f"text_model.{name}"
    return name


def _settings_of(model: Any) -> dict[str, Any]:
    config = model.config
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {
        key: value
        for key, value in settings.items()
        if not key.startswith("_") and key not in _NOT_ARCHITECTURE
    }


def _vae(config: dict[str, Any]) -> nn.Module:
    model: nn.Module = AutoencoderKL.from_config(config)  # type: ignore[no-untyped-call]
    return model


_BUILDERS: dict[str, Any] = {
    "text_encoder": lambda config: CLIPTextModel(CLIPTextConfig(**config)),
    "text_encoder_2": lambda config: CLIPTextModelWithProjection(CLIPTextConfig(**config)),
    "unet": UNet2DConditionModel.from_config,
    "vae_encoder": _vae,
    "vae_decoder": _vae,
    "safety_checker": safety_checker_model,
    "prompt_expander": prompt_expander_model,
}
