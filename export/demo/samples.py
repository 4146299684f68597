"""Sample grids: what the model paints now, row by row, to look at while it trains."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from .architecture import DemoModel
from .autoencoder import as_pictures, as_values
from .denoiser import estimated
from .photos import photos, scenic
from .sampling import Start, estimates, schedule
from .scenes import Scene, scene
from .shapes import COLOURS, SHAPES
from .text import Tokens, conditions
from .textures import Pixels

_SEED = 1_000_003
"""Far from those of training scenes."""


def held_out_scenes(edge: int, count: int, *, fills: bool) -> list[Scene]:
    """Scenes on held-out photos and fresh grounds, that training has not seen."""
    found: list[Scene] = []
    number = 0
    while len(found) < count:
        draw = np.random.Generator(np.random.PCG64([_SEED, edge, number]))
        each = scene(edge, draw, scenic(photos("held_out")))
        number += 1
        if (each.thing is None) == fills:
            found.append(each)
    return found


@torch.no_grad()
def painted(
    model: DemoModel,
    before: Sequence[Pixels],
    masks: Sequence[Pixels],
    captions: Sequence[str],
    *,
    steps: int,
    strength: float,
    seed: int,
) -> list[Pixels]:
    """What the model makes of photos, masks and captions: whole pictures, the photo outside."""
    tokens = Tokens()
    condition = conditions(model, torch.stack([tokens(caption) for caption in captions]))
    clean = model.vae.encode(as_values(before)).latent_dist.mode()
    planes = torch.from_numpy(np.stack(masks))[:, None].float()
    cells = (torch.nn.functional.max_pool2d(planes, 8) > 127).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    start = Start(clean, noise, cells)

    def estimate(x: torch.Tensor, sigma: float, timestep: float) -> torch.Tensor:
        level = torch.full((len(x), 1, 1, 1), sigma)
        return estimated(model, x, level, torch.full((len(x),), timestep), condition)

    plan = schedule(steps, strength)
    first = start.first(float(plan.sigmas[0]), pure_noise=strength == 1)
    *_, last = estimates(estimate, start, plan, first)
    decoded = as_pictures(model.vae.decode(start.blended(last, 0.0)).sample)
    pictures = zip(decoded, before, masks, strict=True)
    return [np.where(mask[..., None] > 127, new, old) for new, old, mask in pictures]


def grid(model: DemoModel, edge: int) -> Image.Image:
    """Every shape in some colour, and fills: before, then 4 steps at strength 1 and 0.95."""
    things = held_out_scenes(edge, len(SHAPES), fills=False)
    wanted = zip(SHAPES, list(COLOURS)[: len(SHAPES)], strict=True)
    scenes = [*things, *held_out_scenes(edge, 4, fills=True)]
    captions = [f"a {colour} {shape}" for shape, colour in wanted]
    captions += [each.caption for each in scenes[len(things) :]]
    before, masks = [each.before for each in scenes], [each.mask for each in scenes]
    made = (
        painted(model, before, masks, captions, steps=4, strength=strength, seed=_SEED)
        for strength in (1.0, 0.95)
    )
    return side_by_side([before, *made])


def side_by_side(rows: Sequence[Sequence[Pixels]]) -> Image.Image:
    """Pictures of one size in rows."""
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0))
