"""The UNet's training, with both text encoders: noise to scenes, by a score of samples.

Every scene is shown with two noises, and the pair of answers a, b to the truth y is scored by
|a - y| / 2 + |b - y| / 2 - |a - b| / 2 (the energy score; Gneiting & Raftery 2007, section 4.3,
used for diffusion models by De Bortoli et al. 2025). Its best answer is a sample of what may be
there. A squared error's is the mean of all that, a blur.

Half of the updates run the blend loop itself, from the photo or from pure noise, and score each of
its calls: what the mask holds then is the model's own earlier answer, which is how it finds out
where the mask is. The other half denoise scenes as they are, so that details are learned, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...scheduler import NoiseConstants
from .architecture import DemoModel
from .latents import LatentScenes
from .sampling import Start, estimates, schedule
from .text import conditions
from .textures import Draw

_PLANS = (
    (4, 1.0, 0.3), (4, 0.95, 0.3), (2, 1.0, 0.12), (1, 1.0, 0.03), (8, 1.0, 0.1), (8, 0.95, 0.1),
    (4, 0.6, 0.05),
)  # fmt: skip
"""Steps, strength, and the share of loops that run so."""
_TIMESTEPS = (999, 874, 749, 624, 499, 374, 249, 124)
_TIMESTEP_SHARES = (0.12, 0.06, 0.22, 0.1, 0.2, 0.08, 0.17, 0.05)
_SCALES = (1, 2, 4)
"""Latents a side of the pieces that are compared."""
_OUTSIDE = 0.15
"""Weight of what the mask does not cover: the loop replaces it, but it says what fits."""
_SPREAD_OF_THINGS = 0.2
"""Mask and caption say nearly all about a thing, so the mean is sharp, and it is learned sooner."""


@dataclass(frozen=True)
class Weighed:
    """Truth, where it counts, and how far answers must differ from each other.

    truth: latents (n, 4, h, w). weight: (n, 1, h, w). spread: (n, 1, 1, 1), 1 for the energy score
    itself, less for answers nearer to the mean.
    """

    truth: Tensor
    weight: Tensor
    spread: Tensor

    def score(self, estimate: Tensor) -> Tensor:
        """The energy score of `estimate`, (2n, 4, h, w): both answers, one half after the other."""
        one, other = estimate.chunk(2)
        losses = []
        for scale in _SCALES:
            weight = functional.avg_pool2d(self.weight, scale)
            pieces = _norms(torch.stack([one - self.truth, other - self.truth, one - other]), scale)
            far = (pieces[0] + pieces[1] - self.spread * pieces[2]) / 2
            losses.append((far * weight).sum() / weight.sum())
        return torch.stack(losses).mean()


def _norms(differences: Tensor, scale: int) -> Tensor:
    """Lengths of scale x scale pieces, per value: (k, n, 1, height / scale, width / scale)."""
    flat = functional.pixel_unshuffle(differences.flatten(0, 1), scale)
    norms: Tensor = (flat.square().mean(dim=1, keepdim=True) + 1e-4).sqrt()
    return norms.reshape(*differences.shape[:2], *norms.shape[1:])


class DenoiserLoss:
    """Of update i; `on_policy`: the share of updates that run the blend loop.

    pairs: scenes of an update that runs no loop; a loop gets a third of them, as it makes several
    calls.
    """

    def __init__(
        self,
        model: DemoModel,
        scenes: LatentScenes,
        *,
        pairs: int,
        on_policy: float,
        seed: int,
    ) -> None:
        self._model, self._scenes = model, scenes
        self._pairs, self._on_policy, self._seed = pairs, on_policy, seed
        self._sigmas = NoiseConstants().training_sigmas()

    def __call__(self, update: int) -> tuple[Tensor, dict[str, float]]:
        edge = self._scenes.mask.shape[-1]
        draw = np.random.Generator(np.random.PCG64([self._seed, 4, edge, update]))
        if draw.random() < self._on_policy:
            return self._loop(draw, max(2, self._pairs // 3))
        return self._as_they_are(draw)

    def _as_they_are(self, draw: Draw) -> tuple[Tensor, dict[str, float]]:
        """Scenes with noise, each pair at a timestep of its own."""
        chosen = self._choose(draw, self._pairs)
        truth, weighed, condition = self._batch(chosen)
        timesteps = draw.choice(_TIMESTEPS, size=len(chosen), p=_TIMESTEP_SHARES)
        sigma = torch.from_numpy(np.tile(self._sigmas[timesteps], 2)).view(-1, 1, 1, 1)
        x = truth.repeat(2, 1, 1, 1) + sigma * _noise(draw, truth)
        twice = torch.from_numpy(np.tile(timesteps, 2))
        loss = weighed.score(estimated(self._model, x, sigma, twice, condition))
        return loss, {"denoising": float(loss.detach())}

    def _loop(self, draw: Draw, pairs: int) -> tuple[Tensor, dict[str, float]]:
        """A request's whole way: every call is scored, and none learns through another."""
        steps, strength, _ = _PLANS[int(draw.choice(len(_PLANS), p=[p[2] for p in _PLANS]))]
        chosen = self._choose(draw, pairs)
        truth, weighed, condition = self._batch(chosen)
        before = self._scenes.before[chosen].float().repeat(2, 1, 1, 1)
        mask = self._scenes.mask[chosen].float().repeat(2, 1, 1, 1)
        start = Start(before, _noise(draw, truth), mask)

        def estimate(x: Tensor, sigma: float, timestep: float) -> Tensor:
            level = torch.full((len(x), 1, 1, 1), sigma)
            return estimated(self._model, x, level, torch.full((len(x),), timestep), condition)

        plan = schedule(steps, strength)
        answers = estimates(estimate, start, plan, pure_noise=strength == 1)
        losses = [weighed.score(answer) for answer in answers]
        return torch.stack(losses).mean(), {f"loop{steps}@{strength}": float(losses[-1].detach())}

    def _choose(self, draw: Draw, pairs: int) -> Tensor:
        return torch.from_numpy(draw.integers(len(self._scenes), size=pairs))

    def _batch(self, chosen: Tensor) -> tuple[Tensor, Weighed, tuple[Tensor, Tensor]]:
        """Clean latents, how they count, and the conditions of both halves of a batch."""
        truth = self._scenes.after[chosen].float()
        mask = self._scenes.mask[chosen].float()
        hidden, pooled = conditions(self._model, self._scenes.ids[chosen].long())
        spread = torch.where(self._scenes.fills[chosen], 1.0, _SPREAD_OF_THINGS).view(-1, 1, 1, 1)
        weighed = Weighed(truth, mask + _OUTSIDE * (1 - mask), spread)
        return truth, weighed, (hidden.repeat(2, 1, 1), pooled.repeat(2, 1))


def estimated(
    model: DemoModel,
    x: Tensor,
    sigma: Tensor,
    timesteps: Tensor,
    condition: Sequence[Tensor],
) -> Tensor:
    """The clean latents in x (n, 4, h, w) of noise level sigma (n, 1, 1, 1), by v-prediction."""
    hidden, pooled = condition
    size = 8 * x.shape[-2], 8 * x.shape[-1]
    time_ids = torch.tensor([*size, 0, 0, *size], dtype=torch.float32).expand(len(x), -1)
    variance = sigma**2 + 1
    velocity = model.unet(
        x / variance.sqrt(),
        timesteps,
        hidden,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
    ).sample
    clean: Tensor = x / variance - velocity * sigma / variance.sqrt()
    return clean


def _noise(draw: Draw, truth: Tensor) -> Tensor:
    """Two noises for every scene."""
    shape = (2 * len(truth), *truth.shape[1:])
    return torch.from_numpy(draw.standard_normal(shape, dtype=np.float32))
