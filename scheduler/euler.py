"""One Euler step of the probability-flow ODE, split into its four formulas.

Karras et al. 2022, algorithm 1 without churn. Every function takes and returns float32 latents of
any shape; sigmas are plain floats. The update runs in float32 even when the UNet runs in float16.
"""

import math

import numpy as np
from numpy.typing import NDArray

from .schedule import Prediction

Latents = NDArray[np.float32]


def noised(clean: Latents, noise: Latents, sigma: float) -> Latents:
    """Clean latents with noise of level `sigma` added: z0 + sigma * n (no sqrt(abar) factor)."""
    return clean + np.float32(sigma) * noise


def scaled_input(x: Latents, sigma: float) -> Latents:
    """What the UNet is shown: x / sqrt(sigma^2 + 1), of unit variance (Karras et al., eq. 7)."""
    return x / np.float32(math.sqrt(sigma * sigma + 1))


def denoised(x: Latents, output: Latents, sigma: float, prediction: Prediction) -> Latents:
    """The UNet's estimate of the clean latents z0, from its output at noise level `sigma`."""
    match prediction:
        case Prediction.EPSILON:
            return x - np.float32(sigma) * output
        case Prediction.SAMPLE:
            return output
        case Prediction.V_PREDICTION:
            variance = sigma * sigma + 1
            return output * np.float32(-sigma / math.sqrt(variance)) + x / np.float32(variance)


def euler_step(x: Latents, estimate: Latents, sigma: float, sigma_next: float) -> Latents:
    """Move x from `sigma` to `sigma_next` along d = (x - z0) / sigma; returns z0 at 0."""
    derivative = (x - estimate) / np.float32(sigma)
    return x + derivative * np.float32(sigma_next - sigma)
