"""The UNet's training, with both text encoders: noise to scenes.

Some scenes of an update are denoised as they are, so that details are learned. For others the
blend loop itself runs first, from the photo or from pure noise, up to one of its calls, and that
call is scored: what the mask holds then is the model's own earlier answer, which is how it finds
out where the mask is. The rest are first calls below strength 1, which see what was there before:
nothing but the caption tells that it has to go.

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
    (4, 1.0, 0.35), (4, 0.95, 0.3), (2, 1.0, 0.1), (8, 1.0, 0.1), (8, 0.95, 0.1), (4, 0.6, 0.05),
)  # fmt: skip
"""Steps, strength, and the share of loops that run so."""
_TIMESTEPS = (999, 874, 749, 624, 499, 374, 249, 124)
_TIMESTEP_SHARES = (0.2, 0.08, 0.25, 0.1, 0.2, 0.05, 0.1, 0.02)
_FIRST_TIMESTEPS = (749, 874)
"""Of requests at strength 0.95, the default, in 4 and in 8 steps."""
_FIRST_SHARES = (0.75, 0.25)
_SCALES = (1, 2, 4)
"""Latents a side of the pieces that are compared."""
_OUTSIDE = 0.15
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


@dataclass(frozen=True)
class _Noisy:
    """x: (n, 4, h, w) latents of noise level sigma, (n, 1, 1, 1), at timesteps, (n,)."""

    x: Tensor
    sigma: Tensor
    timesteps: Tensor


class DenoiserLoss:
    """Of update i, on `count` scenes; `on_policy`: the share that the blend loop leads to, and half
    as many are first calls.

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
        self._first = min(round(count * on_policy / 2), count - self._led)
        self._noises, self._seed = 2 if paired else 1, seed
        self._sigmas = torch.from_numpy(NoiseConstants().training_sigmas()).float()

    def __call__(self, update: int) -> tuple[Tensor, dict[str, float]]:
        scenes, led, begun = self._scenes, self._led, self._led + self._first
        draw = np.random.Generator(
            np.random.PCG64([self._seed, 4, scenes.mask.shape[-1], self._noises, update])
        )
        chosen = torch.from_numpy(draw.integers(len(scenes), size=self._count))
        truth, mask = scenes.after[chosen].float(), scenes.mask[chosen].float()
        condition = conditions(self._model, scenes.ids[chosen].long())
        parts = []
        if led:
            known = [part[:led].detach() for part in condition]
            start = Start(scenes.before[chosen[:led]].float(), torch.empty(0), mask[:led])
            parts.append(self._led_to(start, known, draw))
        if led < begun:
            before = scenes.before[chosen[led:begun]].float()
            parts.append(self._noised(before, _FIRST_TIMESTEPS, _FIRST_SHARES, draw))
        if begun < self._count:
            parts.append(self._noised(truth[begun:], _TIMESTEPS, _TIMESTEP_SHARES, draw))
        noisy = _Noisy(*(self._joined(both) for both in zip(*map(_fields, parts), strict=True)))
        twice = [part.repeat(self._noises, *[1] * (part.dim() - 1)) for part in condition]
        answers = estimated(self._model, noisy.x, noisy.sigma, noisy.timesteps, twice)
        spread = torch.where(scenes.fills[chosen], 1.0, _SPREAD_OF_THINGS).view(-1, 1, 1, 1)
        losses = Weighed(truth, mask + _OUTSIDE * (1 - mask), spread).score(answers)
        kinds = {"led": losses[:led], "first": losses[led:begun], "denoising": losses[begun:]}
        figures = {name: float(of.detach().mean()) for name, of in kinds.items() if len(of)}
        return losses.mean(), figures

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts of all scenes; each holds a first noise's, then perhaps a second one's."""
        halves = [part.chunk(self._noises) for part in parts]
        return torch.cat([torch.cat(half) for half in zip(*halves, strict=True)])

    def _noised(
        self, clean: Tensor, among: Sequence[int], shares: Sequence[float], draw: Draw
    ) -> _Noisy:
        """Latents with noise, each at a timestep of its own."""
        timesteps = torch.from_numpy(draw.choice(among, size=len(clean), p=shares))
        timesteps = timesteps.repeat(self._noises)
        sigma = self._sigmas[timesteps].view(-1, 1, 1, 1)
        x = clean.repeat(self._noises, 1, 1, 1) + sigma * self._noise(clean, draw)
        return _Noisy(x, sigma, timesteps.float())

    @torch.no_grad()
    def _led_to(self, start: Start, condition: Sequence[Tensor], draw: Draw) -> _Noisy:
        """A request's way to one of its calls, for each scene to a call of its own."""
        steps, strength, _ = _PLANS[int(draw.choice(len(_PLANS), p=[p[2] for p in _PLANS]))]
        plan = schedule(steps, strength)
        count, repeats = len(start.before), (self._noises, 1, 1, 1)
        twice = [part.repeat(self._noises, *[1] * (part.dim() - 1)) for part in condition]
        begun = Start(
            start.before.repeat(repeats),
            self._noise(start.before, draw),
            start.mask.repeat(repeats),
        )
        seen: list[_Noisy] = []
        last = len(plan.timesteps) - 1

        def estimate(x: Tensor, sigma: float, timestep: float) -> Tensor:
            level, when = torch.full((len(x), 1, 1, 1), sigma), torch.full((len(x),), timestep)
            seen.append(_Noisy(x, level, when))
            if len(seen) > last:  # nothing follows from its answer here
                return x
            return estimated(self._model, x, level, when, twice)

        for _ in estimates(estimate, begun, plan, pure_noise=strength == 1):
            pass
        calls = torch.from_numpy(draw.integers(len(seen), size=count)).repeat(self._noises)
        at = calls, torch.arange(len(calls))
        kinds = zip(*map(_fields, seen), strict=True)
        return _Noisy(*(torch.stack(of_calls)[at] for of_calls in kinds))

    def _noise(self, like: Tensor, draw: Draw) -> Tensor:
        shape = (self._noises * len(like), *like.shape[1:])
        return torch.from_numpy(draw.standard_normal(shape, dtype=np.float32))


def _fields(noisy: _Noisy) -> tuple[Tensor, Tensor, Tensor]:
    return noisy.x, noisy.sigma, noisy.timesteps


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
