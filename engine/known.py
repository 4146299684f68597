"""What is known of a result before it is painted: its surroundings, its noise, the mask."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..scheduler import TorchNoise
from .canvas import Canvas, latent_mask, pad_to_multiple
from .denoise import Blend, Known
from .request import Request
from .vae import Posterior


def known_latents(
    request: Request, posterior: Posterior, canvas: Canvas, batches: Sequence[Sequence[int]]
) -> Iterator[Known]:
    """The known latents of each batch, with the noise diffusers would draw from its seeds.

    diffusers draws the posterior sample before the noise, from the first image's generator only.
    Here every seed makes that draw, so that picture k is the same alone; the sample itself is used
    for parity only, and the posterior's mean, which repeats exactly, otherwise.
    """
    parity = request.blend is Blend.DIFFUSERS
    mask = latent_mask(pad_to_multiple(canvas.mask, "constant"), nearest=parity)
    shape = posterior.mean.shape
    clean = posterior.mean
    for batch in batches:
        noise = []
        for seed in batch:
            stream = TorchNoise(seed)
            if not parity:
                stream.skip(shape)
            elif seed == request.seed:
                clean = posterior.sample(stream.normal(shape))
            noise.append(stream.normal(shape))
        yield Known(clean, np.concatenate(noise), mask)


def batches_of(seeds: Sequence[int], batch_size: int) -> list[Sequence[int]]:
    """The seeds in order, at most `batch_size` together."""
    return [seeds[i : i + batch_size] for i in range(0, len(seeds), batch_size)]
