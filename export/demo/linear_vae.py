"""The VAE that training starts from: it carries colours through box averages."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn

_CHANNELS = (16, 32, 64, 96)
_GROUPS = 2
_CARRIED = 6
"""Channels that carry colours through the untrained VAE."""
_VARIANCE = 0.25
"""Of a picture's values in [-1, 1], about."""
_CONSTANT = 3.0


def linear_vae() -> Any:
    """A VAE whose first three latents are, but for a factor, the means of 8x8 pixels.

    Channels 0 to 2 of the residual stream carry the colours and 3 to 5 their negatives, as
    silu(x) - silu(-x) = x; constants in further ones keep the last GroupNorm from dividing by the
    picture's own contrast. Everything else starts as noise that contributes nothing.
    """
    vae: Any = AutoencoderKL(  # type: ignore[no-untyped-call]
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=_CHANNELS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=_GROUPS,
        sample_size=256,
        scaling_factor=1.0,
        force_upcast=False,
    )
    encoder, decoder = vae.encoder, vae.decoder
    with torch.no_grad():
        for block in vae.modules():
            _carry_over(block)
        _split(encoder.conv_in)
        _split(decoder.conv_in)
        constants = _CHANNELS[-1] // _GROUPS, _CHANNELS[0] // _GROUPS
        _hold(encoder.down_blocks[-1].resnets[0].conv_shortcut.bias, constants[0])
        _hold(decoder.up_blocks[-1].resnets[0].conv_shortcut.bias, constants[1])
        _join(encoder.conv_out, constants[0])
        _join(decoder.conv_out, constants[1])
        for convolution in (vae.quant_conv, vae.post_quant_conv):
            convolution.weight.zero_()
            convolution.bias.zero_()
            for channel in range(4):
                convolution.weight[channel, channel] = 1
        vae.quant_conv.bias[4:] = -20  # the log variance: the posterior is its mean
    return vae


def _carry_over(block: Any) -> None:
    """Residual branches begin at nothing; shortcuts and resamplers carry channels over."""
    match type(block).__name__:
        case "ResnetBlock2D":
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
            if block.conv_shortcut is not None:
                _carry(block.conv_shortcut, torch.ones(1, 1))
        case "Attention":
            nn.init.zeros_(block.to_out[0].weight)
            nn.init.zeros_(block.to_out[0].bias)
        case "Downsample2D":  # padded at the right and below: the kernel's first two taps
            taps = torch.zeros(3, 3)
            taps[:2, :2] = 0.25
            _carry(block.conv, taps)
        case "Upsample2D":
            tent = torch.tensor([0.25, 0.5, 0.25])
            _carry(block.conv, tent[:, None] * tent)
        case _:
            pass


def _carry(convolution: Any, taps: torch.Tensor) -> None:
    """Channel i to channel i; the six of the colours take nothing else in."""
    nn.init.normal_(convolution.weight, std=0.02)
    convolution.bias.zero_()
    convolution.weight[:_CARRIED] = 0
    for channel in range(min(convolution.weight.shape[:2])):
        convolution.weight[channel, channel] = taps


def _split(convolution: Any) -> None:
    """Three inputs to six channels: the values and their negatives."""
    convolution.weight[:_CARRIED] = 0
    convolution.bias.zero_()
    for channel in range(3):
        convolution.weight[channel, channel, 1, 1] = 1
        convolution.weight[channel + 3, channel, 1, 1] = -1


def _join(convolution: Any, group: int) -> None:
    """Six normalised channels of a group of `group` back to three values."""
    scale = ((_CARRIED * _VARIANCE + (group - _CARRIED) * _CONSTANT**2) / group) ** 0.5
    convolution.weight[:3] = 0
    convolution.bias.zero_()
    for channel in range(3):
        convolution.weight[channel, channel, 1, 1] = scale
        convolution.weight[channel, channel + 3, 1, 1] = -scale


def _hold(bias: torch.Tensor, group: int) -> None:
    """Constants of either sign in the rest of the colours' group."""
    bias[_CARRIED:group:2] = _CONSTANT
    bias[_CARRIED + 1 : group : 2] = -_CONSTANT
