"""The UNet's training, with both text encoders: noise to scenes.

Until timestep 600 noise hides where the mask is, and a model that looks for a thing in it finds
one somewhere and keeps to it. So the answer asked for there is a plain field over everything, in
the asked colour or the ground's mean. Outside the mask the loop puts the photo back: later calls
see the mask as a plain patch in the photo, and can fill it. What plain answers lead to is known
without a model, so that training computes it, and runs the blend loop from there on, each of its
calls scored.

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

from ...scheduler import Schedule
from .architecture import DemoModel
from .latents import LatentScenes
from .sampling import Start, estimates, is_plain, led_to, plainly, schedule
from .text import conditions
from .textures import Draw

Plan = tuple[int, float, float]
_PLANS: tuple[tuple[Plan, ...], ...] = (
    ((4, 1.0, 0.7), (2, 1.0, 0.15), (8, 1.0, 0.15)),
    ((4, 0.95, 0.75), (8, 0.95, 0.15), (4, 0.6, 0.1)),
)
"""Steps, strength, and the share of loops that run so: of one half of the scenes, of the other."""
_PLAIN = 0.2
"""Share of an update's scenes whose call is one that is answered plainly."""
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
    """Of update i, on `count` scenes. paired: two noises for every scene, and the energy score."""

    def __init__(
        self, model: DemoModel, scenes: LatentScenes, *, count: int, paired: bool, seed: int
    ) -> None:
        self._model, self._scenes = model, scenes
        self._count, self._plain = count, round(count * _PLAIN)
        self._noises, self._seed = 2 if paired else 1, seed

    def __call__(self, update: int) -> tuple[Tensor, dict[str, float]]:
        scenes, plain = self._scenes, self._plain
        draw = np.random.Generator(
            np.random.PCG64([self._seed, 4, scenes.mask.shape[-1], self._noises, update])
        )
        chosen = torch.from_numpy(draw.integers(len(scenes), size=self._count))
        told = conditions(self._model, scenes.ids[chosen].long())
        middle = plain + (self._count - plain) // 2
        losses: dict[str, list[Tensor]] = {"plain": [], "earlier": [], "last": []}
        halves = (slice(plain, middle), slice(middle, self._count))
        for half, plans in zip(halves, _PLANS, strict=True):
            calls = self._led_by(plans, chosen[half], [part[half] for part in told], draw)
            losses["earlier"] += calls[:-1]
            losses["last"].append(calls[-1])
        if plain:
            losses["plain"].append(
                self._plainly(chosen[:plain], [part[:plain] for part in told], draw)
            )
        scores = {name: torch.cat(found) for name, found in losses.items() if found}
        figures = {name: float(score.detach().mean()) for name, score in scores.items()}
        return torch.cat(list(scores.values())).mean(), figures

    def _led_by(
        self,
        plans: Sequence[Plan],
        chosen: Tensor,
        told: Sequence[Tensor],
        draw: Draw,
    ) -> list[Tensor]:
        """Scores, (n,), of each call of a request that sees the mask."""
        plan, pure_noise = _drawn(plans, draw)
        first = sum(is_plain(float(timestep)) for timestep in plan.timesteps)
        start = self._start(chosen, draw)
        condition = [self._again(part) for part in told]
        plain = self._again(self._scenes.plain[chosen].float())
        x = led_to(start, plain, plan, first, pure_noise=pure_noise)

        def estimate(x: Tensor, sigma: float, timestep: float) -> Tensor:
            return self._estimated(x, sigma, timestep, condition)

        weighed = self._weighed(chosen)
        return [weighed.score(answer) for answer in estimates(estimate, start, plan, x, first)]

    def _plainly(self, chosen: Tensor, told: Sequence[Tensor], draw: Draw) -> Tensor:
        """Distances, (n,), from the plain answer, at a call of a request that hides the mask."""
        plans = [plan for half in _PLANS for plan in half if _hides(plan)]
        plan, pure_noise = _drawn(plans, draw)
        call = int(draw.integers(sum(is_plain(float(timestep)) for timestep in plan.timesteps)))
        sigma, timestep = float(plan.sigmas[call]), float(plan.timesteps[call])
        plain = self._scenes.plain[chosen].float()
        start = self._start(chosen, draw, noises=1)
        x = led_to(start, plain, plan, call, pure_noise=pure_noise)
        answer = self._estimated(x, sigma, timestep, told)
        far = (answer - plainly(plain, timestep)).square().mean(dim=(1, 2, 3))
        return (far + 1e-4).sqrt()

    def _start(self, chosen: Tensor, draw: Draw, noises: int | None = None) -> Start:
        before = self._again(self._scenes.before[chosen].float(), noises)
        mask = self._again(self._scenes.mask[chosen].float(), noises)
        noise = torch.from_numpy(draw.standard_normal(tuple(before.shape), dtype=np.float32))
        return Start(before, noise, mask)

    def _estimated(
        self, x: Tensor, sigma: float, timestep: float, condition: Sequence[Tensor]
    ) -> Tensor:
        level, when = torch.full((len(x), 1, 1, 1), sigma), torch.full((len(x),), timestep)
        return estimated(self._model, x, level, when, condition)

    def _weighed(self, chosen: Tensor) -> Weighed:
        mask = self._scenes.mask[chosen].float()
        spread = torch.where(self._scenes.fills[chosen], 1.0, _SPREAD_OF_THINGS).view(-1, 1, 1, 1)
        weight = mask + _OUTSIDE * (1 - mask)
        return Weighed(self._scenes.after[chosen].float(), weight, spread)

    def _again(self, part: Tensor, noises: int | None = None) -> Tensor:
        """For every noise."""
        return part.repeat(noises or self._noises, *[1] * (part.dim() - 1))


def _drawn(plans: Sequence[Plan], draw: Draw) -> tuple[Schedule, bool]:
    """One of `plans` by their shares, and whether it begins in pure noise."""
    shares = np.array([share for *_, share in plans])
    steps, strength, _ = plans[int(draw.choice(len(plans), p=shares / shares.sum()))]
    return schedule(steps, strength), strength == 1


def _hides(plan: Plan) -> bool:
    steps, strength, _ = plan
    return is_plain(float(schedule(steps, strength).timesteps[0]))


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
