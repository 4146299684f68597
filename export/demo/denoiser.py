"""The UNet's training, with both text encoders: noise to scenes.

The blend loop itself runs, from the photo or from pure noise, and each of its calls is scored: what
the mask holds after the first is the model's own earlier answer, which is how it finds out where
the mask is. Nothing in pure noise tells where a thing is to be, and a model that was shown things
in as much noise would find some there and keep to them; so only the last timesteps, where details
are made, also see scenes as they are with noise on them.

At first an answer is scored by its distance from the truth, whose best answer is a mean of all that
could be there. That is where colours and shapes come from, and for things mask and caption say
nearly everything. Later every scene is shown with two noises, and the pair of answers a, b to the
truth y is scored by |a - y| / 2 + |b - y| / 2 - |a - b| / 2 (the energy score; Gneiting & Raftery
2007, section 4.3, used for diffusion models by De Bortoli et al. 2025), whose best answer is a
sample: grounds get their texture back.
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
    ((4, 1.0, 0.7), (2, 1.0, 0.15), (8, 1.0, 0.15)),
    ((4, 0.95, 0.75), (8, 0.95, 0.15), (4, 0.6, 0.1)),
)
"""Steps, strength, and the share of loops that run so: of one half of the scenes, of the other."""
_TIMESTEPS = (374, 249, 124)
_TIMESTEP_SHARES = (0.2, 0.6, 0.2)
"""At which scenes are denoised as they are, and the share of each."""
_SCALES = (1, 2, 4)
"""Latents a side of the pieces that are compared."""
_OUTSIDE = 0.05
"""Weight of what the mask does not cover: the loop replaces it, but it says what fits."""
_SPREAD_OF_THINGS = 0.2
"""Of the energy score's last term: mask and caption say nearly all about a thing."""


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
        """Of every scene, (n,): the distance of one answer each, (n, 4, h, w), or the energy score
        of two, (2n, 4, h, w), one half after the other.
        """
        answers = estimate.reshape(-1, *self.truth.shape)
        differences = [answer - self.truth for answer in answers]
        if len(answers) == 2:
            differences.append(answers[0] - answers[1])
        losses = []
        for scale in _SCALES:
            weight = functional.avg_pool2d(self.weight, scale)
            far, *rest = _norms(torch.stack(differences), scale)
            if rest:
                far = (far + rest[0] - self.spread * rest[1]) / 2
            losses.append((far * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)))
        return torch.stack(losses).mean(dim=0)


def _norms(differences: Tensor, scale: int) -> Tensor:
    """Lengths of scale x scale pieces, per value: (k, n, 1, height / scale, width / scale)."""
    flat = functional.pixel_unshuffle(differences.flatten(0, 1), scale)
    norms = (flat.square().mean(dim=1, keepdim=True) + 1e-4).sqrt()
    return norms.reshape(*differences.shape[:2], *norms.shape[1:])


class DenoiserLoss:
    """Of update i, on `count` scenes; `on_policy`: the share that the blend loop runs on.

    paired: two noises for every scene, and the energy score.
    """

    def __init__(
        self,
        model: DemoModel,
        scenes: LatentScenes,
        *,
        count: int,
        on_policy: float,
        paired: bool,
        seed: int,
    ) -> None:
        self._model, self._scenes = model, scenes
        self._count, self._led = count, round(count * on_policy)
        self._noises, self._seed = 2 if paired else 1, seed
        self._sigmas = torch.from_numpy(NoiseConstants().training_sigmas()).float()

    def __call__(self, update: int) -> tuple[Tensor, dict[str, float]]:
        scenes, led = self._scenes, self._led
        draw = np.random.Generator(
            np.random.PCG64([self._seed, 4, scenes.mask.shape[-1], self._noises, update])
        )
        chosen = torch.from_numpy(draw.integers(len(scenes), size=self._count))
        told = conditions(self._model, scenes.ids[chosen].long())
        losses: dict[str, list[Tensor]] = {"earlier": [], "last": [], "denoising": []}
        halves = (slice(0, led - led // 2), slice(led - led // 2, led))
        for half, plans in zip(halves, _PLANS, strict=True):
            if len(chosen[half]):
                calls = self._led_by(plans, chosen[half], [part[half] for part in told], draw)
                losses["earlier"] += calls[:-1]
                losses["last"].append(calls[-1])
        if led < self._count:
            rest = [part[led:] for part in told]
            losses["denoising"].append(self._denoised(chosen[led:], rest, draw))
        scores = {name: torch.cat(found) for name, found in losses.items() if found}
        figures = {name: float(score.detach().mean()) for name, score in scores.items()}
        return torch.cat(list(scores.values())).mean(), figures

    def _led_by(
        self,
        plans: Sequence[tuple[int, float, float]],
        chosen: Tensor,
        told: Sequence[Tensor],
        draw: Draw,
    ) -> list[Tensor]:
        """Each call's scores, (n,), of a request as one of `plans` has it."""
        steps, strength, _ = plans[int(draw.choice(len(plans), p=[share for *_, share in plans]))]
        before = self._again(self._scenes.before[chosen].float())
        mask = self._again(self._scenes.mask[chosen].float())
        start = Start(before, self._noise(before, draw), mask)
        condition = [self._again(part) for part in told]

        def estimate(x: Tensor, sigma: float, timestep: float) -> Tensor:
            level, when = torch.full((len(x), 1, 1, 1), sigma), torch.full((len(x),), timestep)
            return estimated(self._model, x, level, when, condition)

        weighed = self._weighed(chosen)
        answers = estimates(estimate, start, schedule(steps, strength), pure_noise=strength == 1)
        return [weighed.score(answer) for answer in answers]

    def _denoised(self, chosen: Tensor, told: Sequence[Tensor], draw: Draw) -> Tensor:
        """Scores, (n,), on scenes with noise, each at a timestep of its own."""
        timesteps = torch.from_numpy(draw.choice(_TIMESTEPS, size=len(chosen), p=_TIMESTEP_SHARES))
        timesteps = self._again(timesteps)
        sigma = self._sigmas[timesteps].view(-1, 1, 1, 1)
        weighed = self._weighed(chosen)
        truth = self._again(weighed.truth)
        x = truth + sigma * self._noise(truth, draw)
        condition = [self._again(part) for part in told]
        return weighed.score(estimated(self._model, x, sigma, timesteps.float(), condition))

    def _weighed(self, chosen: Tensor) -> Weighed:
        mask = self._scenes.mask[chosen].float()
        spread = torch.where(self._scenes.fills[chosen], 1.0, _SPREAD_OF_THINGS).view(-1, 1, 1, 1)
        weight = mask + _OUTSIDE * (1 - mask)
        return Weighed(self._scenes.after[chosen].float(), weight, spread)

    def _again(self, part: Tensor) -> Tensor:
        """For every noise."""
        return part.repeat(self._noises, *[1] * (part.dim() - 1))

    def _noise(self, like: Tensor, draw: Draw) -> Tensor:
        return torch.from_numpy(draw.standard_normal(tuple(like.shape), dtype=np.float32))


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
