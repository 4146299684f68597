"""The VAE's training: pictures through a code of 4 values for 64 pixels, then whitened."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .scenes import scene
from .textures import Draw, Pixels

_PHOTOS = 0.6
"""Share of training pictures that are parts of photos; the others are scenes."""
_SMALLEST = 0.25
"""Of a photo's shorter side: a training part's."""
_NOISE = 0.04
"""Added to latents, in their standard deviations: the decoder must bear a UNet's errors."""
_FLOOR = 1e-4
"""Mean squared error below which nothing more is to be gained: 46 dB of values in [-1, 1]."""


def as_values(pictures: Sequence[Pixels]) -> Tensor:
    """(n, 3, height, width) in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1


def as_pictures(values: Tensor) -> Pixels:
    """(n, height, width, 3), 0 to 255."""
    levels = ((values.clamp(-1, 1) + 1) * 127.5).round().byte()
    pictures: Pixels = levels.permute(0, 2, 3, 1).numpy()
    return pictures


class AutoencoderLoss:
    """Of update i: the mean logarithm of the squared error, which is PSNR but for a factor."""

    def __init__(
        self, vae: Any, photos: Sequence[Pixels], *, edge: int, batch: int, seed: int
    ) -> None:
        self._vae, self._photos = vae, photos
        self._edge, self._batch, self._seed = edge, batch, seed

    def __call__(self, update: int) -> tuple[Tensor, dict[str, float]]:
        draw = np.random.Generator(np.random.PCG64([self._seed, 1, update]))
        target = as_values([self._picture(draw) for _ in range(self._batch)])
        latents = self._vae.encode(target).latent_dist.mode()
        spread = latents.detach().std(dim=(0, 2, 3), keepdim=True)
        noise = torch.from_numpy(draw.normal(size=latents.shape).astype(np.float32))
        errors = self._vae.decode(latents + _NOISE * spread * noise).sample - target
        squared = (errors**2).mean(dim=(1, 2, 3))
        # The edges of things are where a mean over all pixels looks away.
        largest = (errors**4).mean(dim=(1, 2, 3)).sqrt()
        loss = torch.log(squared + _FLOOR).mean() + 0.1 * torch.log(largest + _FLOOR).mean()
        return loss, {"psnr": float((-10 * torch.log10(squared.detach() / 4)).mean())}

    def _picture(self, draw: Draw) -> Pixels:
        if draw.random() > _PHOTOS:
            return scene(self._edge, draw, self._photos).picture
        photo = self._photos[int(draw.integers(len(self._photos)))]
        shorter = min(photo.shape[:2])
        side = int(draw.integers(min(self._edge, round(_SMALLEST * shorter)), shorter + 1))
        top, left = (int(draw.integers(0, whole - side + 1)) for whole in photo.shape[:2])
        part = Image.fromarray(photo[top : top + side, left : left + side])
        turned = np.asarray(part.resize((self._edge, self._edge), Image.Resampling.LANCZOS))
        turned = np.rot90(turned, int(draw.integers(4)))
        turned = turned[:, :: int(draw.choice([1, -1]))]
        return _recoloured(turned, draw)


def _recoloured(picture: Pixels, draw: Draw) -> Pixels:
    """Channels in another order, a little brighter or darker: few photos must do for many."""
    gain, shift = draw.uniform(0.7, 1.2), draw.uniform(-20, 20)
    ordered = picture[..., draw.permutation(3)] if draw.random() < 0.5 else picture
    levels: Pixels = (ordered * gain + shift).clip(0, 255).astype(np.uint8)
    return levels


@torch.no_grad()
def whiten(vae: Any, pictures: Sequence[Pixels]) -> None:
    """Fold a linear map into the 1x1 convolutions around the latents: mean 0, covariance 1.

    What comes out of the decoder stays the same. Symmetric (ZCA), so that latents stay as near as
    they can to the colours they were.
    """
    latents = torch.cat([vae.encode(as_values([picture])).latent_dist.mode().flatten(2)[0]
                         for picture in pictures], dim=1).double()  # fmt: skip
    mean = latents.mean(dim=1)
    values, vectors = torch.linalg.eigh(torch.cov(latents))
    whitening = (vectors * values.rsqrt() @ vectors.T).float()
    colouring = (vectors * values.sqrt() @ vectors.T).float()
    shift = mean.float()
    inner, outer = vae.quant_conv, vae.post_quant_conv
    inner.weight[:4, :, 0, 0] = whitening @ inner.weight[:4, :, 0, 0]
    inner.bias[:4] = whitening @ (inner.bias[:4] - shift)
    outer.bias += outer.weight[:, :, 0, 0] @ shift
    outer.weight[:, :, 0, 0] = outer.weight[:, :, 0, 0] @ colouring


@torch.no_grad()
def psnr(vae: Any, picture: Pixels) -> float:
    """Of a picture through the VAE, in dB of 255 levels. Sides must be multiples of 8."""
    values = as_values([picture])
    restored = as_pictures(vae.decode(vae.encode(values).latent_dist.mode()).sample)[0]
    error = float(((restored.astype(np.float64) - picture) ** 2).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
