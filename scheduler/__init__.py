"""SDXL-Lightning's sampler as functions of arrays: sigmas, Euler steps, strength, seeded noise.

Imports numpy only. Symbols are those of Karras et al. 2022 ("Elucidating the Design Space of
Diffusion-Based Generative Models"): latents live in the variance-exploding scale,
x = z0 + sigma * n.
"""

from .euler import denoised, euler_step, noised, scaled_input
from .noise import TorchNoise
from .schedule import NoiseConstants, Prediction, Schedule, trailing_schedule
from .strength import effective_steps, first_step

__all__ = [
    "NoiseConstants",
    "Prediction",
    "Schedule",
    "TorchNoise",
    "denoised",
    "effective_steps",
    "euler_step",
    "first_step",
    "noised",
    "scaled_input",
    "trailing_schedule",
]
