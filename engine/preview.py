"""What unfinished latents will look like: a linear map stands in for the VAE's decoder.

Above every latent cell lies one colour, the mean of its 64 pixels, and a VAE's four channels give
it almost linearly. The map is fitted to each request's own photo, whose latents and pixels are
both at hand, so it serves any VAE (docs/decisions/0006-previews-by-a-linear-map.md).
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .canvas import Canvas, Window, pad_to_multiple
from .components import PIXELS_PER_LATENT

Latents = NDArray[np.float32]
Cells = NDArray[np.float64]

_RIDGE = 1e-3
"""Variance that is noise in latents scaled to variance 1: a plain photo must not magnify it."""


class Previewer:
    """Pictures of one request's latents. Costs nothing until the first one is asked for.

    clean: the canvas' own latents, (1, 4, h, w), of its sides padded to multiples of 32.
    """

    def __init__(self, canvas: Canvas, clean: Latents) -> None:
        self._canvas = canvas
        self._clean = clean

    @property
    def window(self) -> Window:
        """The part of the photo that a picture shows; beyond its border with fit="pad"."""
        return self._canvas.window

    def picture(self, latents: Latents) -> Image.Image:
        """The first of `latents` (batch, 4, h, w) in RGB, an eighth of the working size.

        Where the mask keeps the photo, and in part where it does so in part, the photo is shown.
        """
        weights, bias = self._map
        colours, painted = self._cells
        predicted = _channels_last(latents) @ weights + bias
        mixed = painted * predicted.reshape(colours.shape) + (1 - painted) * colours
        width, height = (-(-side // PIXELS_PER_LATENT) for side in self._canvas.size)
        pixels = np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)[:height, :width]
        return Image.fromarray(np.ascontiguousarray(pixels))

    @cached_property
    def _cells(self) -> tuple[Cells, Cells]:
        """Per latent cell the photo's mean colour (h, w, 3), and the share painted (h, w, 1)."""
        mask = pad_to_multiple(self._canvas.mask, "constant")
        return _means(pad_to_multiple(self._canvas.pixels, "edge")), _means(mask[..., None])

    @cached_property
    def _map(self) -> tuple[Cells, Cells]:
        """Weights (4, 3) and bias (3) that best give the photo's colours from its latents."""
        latents, colours = _channels_last(self._clean), self._cells[0].reshape(-1, 3)
        middle, mean = latents.mean(axis=0), colours.mean(axis=0)
        centred = latents - middle
        covariance = centred.T @ centred / len(centred)
        covariance += _RIDGE * np.eye(len(covariance))
        weights = np.linalg.solve(covariance, centred.T @ (colours - mean) / len(centred))
        return weights, mean - middle @ weights


def _channels_last(latents: Latents) -> Cells:
    """The first of a batch (batch, channels, h, w) as (h * w, channels) float64."""
    cells: Cells = latents[0].reshape(latents.shape[1], -1).T.astype(np.float64)
    return cells


def _means(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> Cells:
    """(8h, 8w, channels) to the means of 8x8 blocks, (h, w, channels)."""
    height, width, channels = pixels.shape
    blocks = pixels.reshape(
        height // PIXELS_PER_LATENT, PIXELS_PER_LATENT, width // PIXELS_PER_LATENT,
        PIXELS_PER_LATENT, channels,
    )  # fmt: skip
    means: Cells = blocks.mean(axis=(1, 3))
    return means
