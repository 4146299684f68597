"""The blend loop in torch, for training: the steps of `engine.denoise`, on a batch of scenes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...scheduler import Prediction, Schedule, first_step, trailing_schedule

Estimate = Callable[[Tensor, float, float], Tensor]
"""estimate(x, sigma, timestep): the clean latents."""


@dataclass(frozen=True)
class Start:
    """before: (n, 4, h, w) clean latents of the photo; noise: the same; mask: (n, 1, h, w)."""

    before: Tensor
    noise: Tensor
    mask: Tensor

    def blended(self, x: Tensor, sigma: float) -> Tensor:
        """`x` where the mask is, the photo at noise level `sigma` elsewhere."""
        return self.mask * x + (1 - self.mask) * (self.before + sigma * self.noise)


def schedule(steps: int, strength: float) -> Schedule:
    """What a request of so many steps at this strength runs."""
    whole = trailing_schedule(steps, Prediction.V_PREDICTION)
    return whole.starting_at(first_step(steps, strength))


def estimates(
    estimate: Estimate, start: Start, plan: Schedule, *, pure_noise: bool
) -> Iterator[Tensor]:
    """Each call's estimate of the clean latents, the last one blended with the photo."""
    sigmas = [float(sigma) for sigma in plan.sigmas]
    x = sigmas[0] * start.noise + (0 if pure_noise else start.before)
    for timestep, sigma, following in zip(plan.timesteps, sigmas, sigmas[1:], strict=False):
        x = start.blended(x, sigma)
        clean = estimate(x, sigma, float(timestep))
        yield clean
        known = clean.detach()
        x = x + (x - known) / sigma * np.float32(following - sigma).item()
