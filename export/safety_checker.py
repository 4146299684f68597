"""The safety checker of Stable Diffusion v1 as a module with the contract's input and output.

A CLIP vision tower compares a picture with 17 concepts; 3 "special care" concepts lower the bar.
See `StableDiffusionSafetyChecker.forward` in diffusers, whose every flag this reproduces.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig

from ..engine.components import SAFETY_CHECKER

_SIDE = SAFETY_CHECKER.inputs["pixel_values"].shape[-1]
_SPECIAL_CARE = 0.01  # what a special-care concept adds to every other concept's score


def safety_checker_model(config: Mapping[str, Any]) -> nn.Module:
    """diffusers' checker as a config.json like CompVis/stable-diffusion-safety-checker's has it."""
    has_tower = "vision_config" in config or "vision_config_dict" in config
    if config.get("model_type", "clip") != "clip" or not has_tower:
        raise ValueError("it is not a CLIP safety checker's")
    # The checker has no text tower, and its text configuration dates from before transformers 5.
    settings = {key: value for key, value in config.items() if not key.startswith("text_config")}
    clip: Any = CLIPConfig(**settings)
    if clip.vision_config.image_size != _SIDE:
        raise ValueError(f"its pictures have {clip.vision_config.image_size} pixels, not {_SIDE}")
    model: nn.Module = StableDiffusionSafetyChecker(clip)
    return model


def canonical_safety_checker(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A weights file's tensors under the model's parameter names.

    Files have the tower one level deeper than transformers 5 does, and may hold its position ids.
    """
    return {
        name.replace("vision_model.vision_model.", "vision_model.", 1): value
        for name, value in tensors.items()
        if not name.endswith(".position_ids")
    }


class SafetyChecker(nn.Module):
    """CLIP-normalised pictures to the largest concept score each, above 0 where unsafe.

    The tower computes in its weights' type; similarities and thresholds are float32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        tower = model.vision_model
        # Part by part, without the tower's position ids: a buffer, which no weights file fills.
        self.class_embedding = tower.embeddings.class_embedding
        self.patches = tower.embeddings.patch_embedding
        self.positions = tower.embeddings.position_embedding
        self.first_layer_norm = tower.pre_layrnorm
        self.layers = nn.ModuleList(tower.encoder.layers)
        self.final_layer_norm = tower.post_layernorm
        self.projection = model.visual_projection
        self.concepts = model.concept_embeds
        self.thresholds = model.concept_embeds_weights
        self.special_concepts = model.special_care_embeds
        self.special_thresholds = model.special_care_embeds_weights

    def forward(self, pixel_values: Tensor) -> Tensor:
        pictures = self._embed(pixel_values.to(self.patches.weight.dtype)).float()
        special = _similarity(pictures, self.special_concepts) - self.special_thresholds.float()
        needs_care = _rounded(special).amax(dim=1, keepdim=True) > 0
        concept = _similarity(pictures, self.concepts) - self.thresholds.float()
        return _rounded(concept + needs_care.float() * _SPECIAL_CARE).amax(dim=1)

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {}

    def _embed(self, pixel_values: Tensor) -> Tensor:
        """Pictures' projected embeddings: (batch, projection width)."""
        patches = self.patches(pixel_values).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        hidden = torch.cat([first, patches], dim=1) + self.positions.weight
        hidden = self.first_layer_norm(hidden)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=None)
        embeddings: Tensor = self.projection(self.final_layer_norm(hidden[:, 0]))
        return embeddings


def _similarity(pictures: Tensor, concepts: Tensor) -> Tensor:
    """Cosine similarity of every picture with every concept: (pictures, concepts)."""
    return functional.normalize(pictures) @ functional.normalize(concepts.float()).t()


def _rounded(scores: Tensor) -> Tensor:
    """To 3 decimals as numpy rounds float32: a score of up to 0.0005 becomes 0, which is safe."""
    return torch.round(scores * 1000) / 1000
