"""Each SDXL component as a module whose forward has exactly the contract's inputs and outputs.

See `engine.components`. Wrapping beats renaming tensors inside an exported graph: the penultimate
hidden states and the pooled vector are ordinary outputs here. `widths` gives, per input, the sizes
of the dimensions the contract leaves to the model.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..engine.components import TOKENS
from .prompt_expander import PromptExpander
from .safety_checker import SafetyChecker


class TextEncoder(nn.Module):
    """First CLIP tower from token embeddings to penultimate states; its last layer is not run."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.positions = model.embeddings.position_embedding
        self.layers = nn.ModuleList(model.encoder.layers[:-1])

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        hidden, mask = _first_hidden(inputs_embeds, self.positions)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask)
        return hidden

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {"inputs_embeds": (self.positions.embedding_dim,)}


class TextEncoder2(nn.Module):
    """Second CLIP tower: penultimate states and the projected state at the end-of-text token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        tower = model.text_model
        self.positions = tower.embeddings.position_embedding
        self.layers = nn.ModuleList(tower.encoder.layers)
        self.final_layer_norm = tower.final_layer_norm
        self.projection = model.text_projection

    def forward(self, inputs_embeds: Tensor, eos_position: Tensor) -> tuple[Tensor, Tensor]:
        hidden, mask = _first_hidden(inputs_embeds, self.positions)
        penultimate = hidden
        for layer in self.layers:
            penultimate, hidden = hidden, layer(hidden, attention_mask=mask)
        index = eos_position[:, None, None].expand(-1, 1, hidden.shape[-1])
        pooled = torch.gather(hidden, 1, index)[:, 0]
        return penultimate, self.projection(self.final_layer_norm(pooled))

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {"inputs_embeds": (self.positions.embedding_dim,)}


class Unet(nn.Module):
    """The denoiser, its two extra conditions as plain inputs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.unet = model

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor,
        time_ids: Tensor,
    ) -> Tensor:
        prediction: Tensor = self.unet(
            sample,
            timestep,
            encoder_hidden_states,
            added_cond_kwargs={"text_embeds": text_embeds, "time_ids": time_ids},
            return_dict=False,
        )[0]
        return prediction

    def widths(self) -> dict[str, tuple[int, ...]]:
        config = self.unet.config
        sizes = 6 * config.addition_time_embed_dim
        return {
            "encoder_hidden_states": (config.cross_attention_dim,),
            "text_embeds": (config.projection_class_embeddings_input_dim - sizes,),
        }


class VaeEncoder(nn.Module):
    """Pixels to the posterior's mean and log-variance; sampling is the caller's."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.quant_conv = model.quant_conv or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        moments: Tensor = self.quant_conv(self.encoder(images))
        return moments

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {}


class VaeDecoder(nn.Module):
    """Unscaled latents to pixels."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.post_quant_conv = model.post_quant_conv or nn.Identity()

    def forward(self, latents: Tensor) -> Tensor:
        images: Tensor = self.decoder(self.post_quant_conv(latents))
        return images

    def widths(self) -> dict[str, tuple[int, ...]]:
        return {}


WRAPPERS: dict[str, Any] = {
    "text_encoder": TextEncoder,
    "text_encoder_2": TextEncoder2,
    "unet": Unet,
    "vae_encoder": VaeEncoder,
    "vae_decoder": VaeDecoder,
    "safety_checker": SafetyChecker,
    "prompt_expander": PromptExpander,
}


def _first_hidden(inputs_embeds: Tensor, positions: nn.Embedding) -> tuple[Tensor, Tensor]:
    """Embeddings with positions, and the causal mask (1, 1, TOKENS, TOKENS) to add to scores."""
    lowest = torch.finfo(inputs_embeds.dtype).min
    mask = torch.full((TOKENS, TOKENS), lowest, dtype=inputs_embeds.dtype).triu(1)
    return inputs_embeds + positions.weight, mask[None, None]
