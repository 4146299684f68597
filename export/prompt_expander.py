"""A GPT-2 that continues prompts, as a module with the contract's inputs and outputs.

Its cache of keys and values is one tensor in and one tensor out: past -> present.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

_TOKENS = "transformer.wte.weight"
_HEAD = "lm_head.weight"
_BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks that old transformers saved


def prompt_expander_model(config: Mapping[str, Any]) -> nn.Module:
    """transformers' language model as a config.json like MagicPrompt-Stable-Diffusion's has it."""
    if config.get("model_type", "gpt2") != "gpt2":
        raise ValueError(f"it is of type {config['model_type']}, a prompt expander is a gpt2")
    model: Any = GPT2LMHeadModel(GPT2Config(**config))
    if model.lm_head.weight is not model.transformer.wte.weight:
        raise ValueError("its output layer is not tied to its token embedding")
    language_model: nn.Module = model
    return language_model


def canonical_prompt_expander(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A weights file's tensors under the model's parameter names.

    Files of the bare GPT-2 lack the prefix, old ones hold masks, and the one matrix that embeds
    tokens and scores them may have either name or both.
    """
    prefix = "transformer."
    canonical = {
        name if name.startswith(prefix) or name == _HEAD else prefix + name: value
        for name, value in tensors.items()
        if not name.endswith(_BUFFERS)
    }
    if _HEAD in canonical:
        canonical.setdefault(_TOKENS, canonical.pop(_HEAD))
    return canonical


class PromptExpander(nn.Module):
    """Tokens and what was computed for those before them, to the next token's logits.

    No padding: every row of a batch has the same number of tokens before and now.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        transformer = model.transformer
        self.tokens = transformer.wte  # also the output layer, which must not be a second weight
        self.positions = transformer.wpe
        self.blocks = nn.ModuleList(transformer.h)
        self.final_layer_norm = transformer.ln_f
        self.heads = int(model.config.n_head)

    def forward(self, input_ids: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        before = past.shape[-2]
        steps = torch.arange(before + input_ids.shape[1], device=input_ids.device)
        now = steps[before:]
        is_later = steps[None, :] > now[:, None]
        hidden = self.tokens(input_ids) + self.positions(now)
        present = []
        block: Any
        for block, cached in zip(self.blocks, past.unbind(), strict=True):
            attended, cache = self._attend(block.attn, block.ln_1(hidden), cached, is_later)
            hidden = hidden + attended
            hidden = hidden + block.mlp(block.ln_2(hidden))
            present.append(cache)
        last = self.final_layer_norm(hidden[:, -1])
        return functional.linear(last, self.tokens.weight), torch.stack(present)

    def widths(self) -> dict[str, tuple[int, ...]]:
        width = self.tokens.weight.shape[1]
        return {"past": (len(self.blocks), self.heads, width // self.heads)}

    def _attend(
        self, attention: Any, hidden: Tensor, cached: Tensor, is_later: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One block's attention, and its keys and values: (2, batch, heads, tokens, head width)."""
        # (batch, tokens, 3 * width) -> (query/key/value, batch, heads, tokens, head width)
        projected = attention.c_attn(hidden).unflatten(-1, (3, self.heads, -1))
        projected = projected.permute(2, 0, 3, 1, 4)
        cache = torch.cat([cached, projected[1:]], dim=-2)
        scores = (projected[0] * attention.scaling) @ cache[0].transpose(-1, -2)
        scores = scores.masked_fill(is_later, torch.finfo(scores.dtype).min)
        attended = (scores.softmax(-1) @ cache[1]).transpose(1, 2).flatten(2)
        output: Tensor = attention.c_proj(attended)
        return output, cache
