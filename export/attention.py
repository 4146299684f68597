"""Scaled dot-product attention written out, for tracing: four operators every runtime knows.

torch's own translation of `scaled_dot_product_attention` wraps the transposition of the keys into
reshapes whose sizes are computed in the graph, which hides the pattern from runtimes that would
fuse it. The result is the same (docs/decisions/0003).
"""

from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


class PlainAttention:
    """diffusers' attention processor for transformer blocks: softmax(q k^T / sqrt(d)) v."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from (batch, tokens, width) to the context, or to itself."""
        if attention_mask is not None:
            raise ValueError("SDXL's blocks attend without a mask")
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        # Scaling the queries, not the scores, touches 1/tokens as many numbers.
        scores = (query * attn.scale) @ key.transpose(-1, -2)
        attended: Tensor = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        output: Tensor = attn.to_out[0](attended)
        return output


def write_out_attention(module: nn.Module) -> None:
    """Let every transformer-block attention of a UNet use `PlainAttention`."""
    for child in module.modules():
        if isinstance(child, Attention) and _is_plain(child):
            child.set_processor(PlainAttention())  # type: ignore[arg-type]


def _is_plain(attention: Any) -> bool:
    """Whether nothing but projections surrounds the attention, as in SDXL's blocks."""
    extras = (attention.spatial_norm, attention.group_norm, attention.norm_cross, attention.norm_q)
    return (
        all(extra is None for extra in extras)
        and not attention.residual_connection
        and attention.rescale_output_factor == 1.0
        and attention.scale_qk
    )
