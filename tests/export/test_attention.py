"""Attention written out gives what diffusers' fused attention gives, and replaces only that."""

from typing import Any

import pytest
import tiny_components
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from lightfill.export.attention import PlainAttention, write_out_attention


def processors(module: torch.nn.Module) -> list[Any]:
    return [child.processor for child in module.modules() if isinstance(child, Attention)]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("heads", "width", "tokens", "batch"), [(1, 8, 5, 1), (2, 8, 1, 3), (5, 64, 40, 2)]
)
@pytest.mark.parametrize("context", [None, 24])
@pytest.mark.parametrize("bias", [False, True])
def test_it_attends_as_diffusers_does(
    heads: int, width: int, tokens: int, batch: int, context: int | None, bias: bool
) -> None:
    torch.manual_seed(heads)
    attention = Attention(heads * width, context, heads=heads, dim_head=width, bias=bias).eval()
    assert isinstance(attention.processor, AttnProcessor2_0)
    hidden = 3 * normal(batch, tokens, heads * width)
    states = None if context is None else normal(batch, 7, context)
    with torch.no_grad():
        wanted = attention(hidden, encoder_hidden_states=states)
        write_out_attention(attention)
        assert isinstance(attention.processor, PlainAttention)
        found = attention(hidden, encoder_hidden_states=states)
    assert not torch.equal(found, torch.zeros_like(found))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))


def test_a_transformer_block_is_the_same_to_float32_s_rounding() -> None:
    torch.manual_seed(2)
    block = BasicTransformerBlock(32, 4, 8, cross_attention_dim=24, activation_fn="geglu").eval()
    hidden, context = normal(2, 30, 32), normal(2, 77, 24)
    with torch.no_grad():
        wanted = block(hidden, encoder_hidden_states=context)
        write_out_attention(block)
        found = block(hidden, encoder_hidden_states=context)
    assert [type(each) for each in processors(block)] == [PlainAttention, PlainAttention]
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))


def test_every_attention_of_a_unet_is_written_out() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(tiny_components.CONFIGS["unet"])
    assert {type(each) for each in processors(unet)} == {AttnProcessor2_0}
    write_out_attention(unet)
    found = processors(unet)
    assert len(found) > 10
    assert {type(each) for each in found} == {PlainAttention}


def test_the_vae_keeps_its_own_attention() -> None:
    config = tiny_components.CONFIGS["vae_decoder"]
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(config)  # type: ignore[no-untyped-call]
    before = processors(vae)
    assert len(before) == 2  # in the middle of the encoder and of the decoder
    write_out_attention(vae)
    assert processors(vae) == before


@pytest.mark.parametrize(
    "surrounding",
    [
        {"norm_num_groups": 4},
        {"spatial_norm_dim": 4},
        {"residual_connection": True},
        {"rescale_output_factor": 2.0},
        {"cross_attention_dim": 8, "cross_attention_norm": "layer_norm"},
        {"qk_norm": "layer_norm"},
        {"scale_qk": False},
    ],
    ids="-".join,
)
def test_attention_with_more_than_projections_is_left_alone(surrounding: dict[str, Any]) -> None:
    attention = Attention(32, heads=2, dim_head=16, **surrounding)
    write_out_attention(attention)
    assert not isinstance(attention.processor, PlainAttention)


def test_a_mask_is_refused() -> None:
    attention = Attention(16, heads=2, dim_head=8)
    write_out_attention(attention)
    with pytest.raises(ValueError, match="without a mask"):
        attention(normal(1, 4, 16), attention_mask=torch.zeros(1, 1, 4))
