"""The blend loop in torch, for training: the steps of `engine.denoise`, on a batch of scenes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...scheduler import Prediction, Schedule, first_step, trailing_schedule

_HIDDEN_FROM = 600.0
"""The timestep from which on noise hides where the mask is."""
_BOLDNESS, _BOLD_BELOW = 1.8, 950.0
"""What plain answers are multiplied by, at timesteps at which no request ends."""

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

    def first(self, sigma: float, *, pure_noise: bool) -> Tensor:
        """What the loop begins with: noise, with the photo under it below strength 1."""
        return sigma * self.noise + (0 if pure_noise else self.before)


def schedule(steps: int, strength: float) -> Schedule:
    """What a request of so many steps at this strength runs."""
    whole = trailing_schedule(steps, Prediction.V_PREDICTION)
    return whole.starting_at(first_step(steps, strength))


def is_plain(timestep: float) -> bool:
    """Whether the asked answer is a plain field: noise still hides the mask."""
    return timestep >= _HIDDEN_FROM


def plainly(plain: Tensor, timestep: float) -> Tensor:
    """The asked answer at such a timestep: `plain` (n, 4, 1, 1), bolder where it is never the last.

    Bolder is easier to see in noise. A request of one step ends at 999, one of two at 499.
    """
    return plain * (_BOLDNESS if timestep < _BOLD_BELOW else 1.0)


def led_to(start: Start, plain: Tensor, plan: Schedule, call: int, *, pure_noise: bool) -> Tensor:
    """What the loop gives its call number `call`, when all before were answered plainly."""
    sigmas = [float(sigma) for sigma in plan.sigmas]
    x = start.first(sigmas[0], pure_noise=pure_noise)
    for timestep, sigma, following in zip(plan.timesteps[:call], sigmas, sigmas[1:], strict=False):
        x = start.blended(x, sigma)
        x = x + (x - plainly(plain, float(timestep))) * (following - sigma) / sigma
    return start.blended(x, sigmas[call])


def estimates(
    estimate: Estimate, start: Start, plan: Schedule, x: Tensor, first: int = 0
) -> Iterator[Tensor]:
    """Each call's estimate of the clean latents, from call number `first` on, which is given x."""
    sigmas = [float(sigma) for sigma in plan.sigmas[first:]]
    for timestep, sigma, following in zip(plan.timesteps[first:], sigmas, sigmas[1:], strict=False):
        x = start.blended(x, sigma)
        clean = estimate(x, sigma, float(timestep))
        yield clean
        known = clean.detach()
        x = x + (x - known) / sigma * np.float32(following - sigma).item()
