"""Pixels to latents and back.

Latents everywhere else in the engine are scaled (multiplied by the VAE's scaling factor); the
sessions' are not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .components import LATENT_CHANNELS
from .sessions import Session

_LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class Posterior:
    """The encoder's Gaussian over scaled latents: mean and std, (1, 4, h/8, w/8) float32."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def sample(self, noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """A draw from it, given standard normal noise of the same shape."""
        return self.mean + self.std * noise

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.mean.nbytes + self.std.nbytes


def encode(session: Session, pixels: NDArray[np.uint8], scaling_factor: float) -> Posterior:
    """Encode an RGB picture (height, width, 3), sides multiples of 32, to its latent posterior."""
    images = pixels_to_images(pixels).astype(session.inputs["images"].dtype, copy=False)
    moments = session.run({"images": images})["moments"].astype(np.float32, copy=False)
    mean, logvar = moments[:, :LATENT_CHANNELS], moments[:, LATENT_CHANNELS:]
    scale = np.float32(scaling_factor)
    return Posterior(mean * scale, np.exp(np.clip(logvar, *_LOGVAR_RANGE) / 2) * scale)


def decode(
    session: Session, latents: NDArray[np.float32], scaling_factor: float
) -> list[NDArray[np.uint8]]:
    """Decode scaled latents (batch, 4, h, w) to RGB pictures (8h, 8w, 3), one per batch entry."""
    unscaled = (latents / np.float32(scaling_factor)).astype(
        session.inputs["latents"].dtype, copy=False
    )
    images = session.run({"latents": unscaled})["images"]
    return [images_to_pixels(image) for image in images]


def pixels_to_images(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (height, width, 3) to float32 (1, 3, height, width) in [-1, 1]."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]
    images = planes.astype(np.float32)
    images /= np.float32(127.5)
    images -= np.float32(1)
    return images


def images_to_pixels(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(3, height, width), nominally in [-1, 1], to uint8 (height, width, 3), rounded to nearest."""
    values = image.astype(np.float32)  # a copy: the session's own output is left alone
    values *= np.float32(127.5)
    values += np.float32(127.5)
    np.clip(values, 0, 255, out=values)
    np.rint(values, out=values)
    return np.ascontiguousarray(values.astype(np.uint8).transpose(1, 2, 0))
