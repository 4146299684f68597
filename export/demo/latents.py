"""Scenes as the UNet sees them: encoded once by the trained VAE and kept on disk."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .autoencoder import as_values
from .scenes import Scene, scene
from .shapes import COLOURS
from .text import Tokens
from .textures import Pixels

_AT_ONCE = 16
_FLAT = 64
"""Pixels a side of pictures of one colour."""


@dataclass(frozen=True)
class LatentScenes:
    """before, after: (n, 4, h, w) float16 latents. mask: (n, 1, h, w) uint8, 1 where to paint.

    plain: (n, 4, 1, 1) float16, latents of the asked colour, or the mean of the ground in the mask.
    ids: (n, 2, 77) int32 tokens. fills: (n,) bool, whether a ground is asked for, not a thing.
    """

    before: Tensor
    after: Tensor
    mask: Tensor
    plain: Tensor
    ids: Tensor
    fills: Tensor

    def __len__(self) -> int:
        return len(self.fills)


def latent_scenes(
    vae: Any,
    photos: Sequence[Pixels],
    path: Path,
    *,
    edge: int,
    count: int,
    seed: int,
) -> LatentScenes:
    """`count` scenes of `edge` pixels, from `path` if they are there."""
    if not path.exists():
        made = _made(vae, photos, edge, count, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        save_file(made, temporary)
        temporary.replace(path)
    return LatentScenes(**load_file(path))


@torch.no_grad()
def _made(
    vae: Any, photos: Sequence[Pixels], edge: int, count: int, seed: int
) -> dict[str, Tensor]:
    tokens = Tokens()
    parts: dict[str, list[Tensor]] = {
        name: [] for name in ("before", "after", "mask", "plain", "ids")
    }
    colours = _plain_colours(vae)
    fills: list[bool] = []
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        draws = [np.random.Generator(np.random.PCG64([seed, 3, edge, i])) for i in numbers]
        scenes = [scene(edge, draw, photos) for draw in draws]
        for name, pictures in (("before", [each.before for each in scenes]),
                               ("after", [each.picture for each in scenes])):  # fmt: skip
            latents = vae.encode(as_values(pictures)).latent_dist.mode()
            parts[name].append(latents.half())
        masks = torch.from_numpy(np.stack([each.mask for each in scenes]))[:, None].float()
        cells = torch.nn.functional.max_pool2d(masks, 8) > 127
        parts["mask"].append(cells.byte())
        parts["plain"].append(_plain(scenes, parts["after"][-1].float(), cells.float(), colours))
        parts["ids"].append(torch.stack([tokens(each.caption) for each in scenes]).int())
        fills += [each.thing is None for each in scenes]
    joined = {name: torch.cat(all_).contiguous() for name, all_ in parts.items()}
    return joined | {"fills": torch.tensor(fills)}


def _plain(
    scenes: Sequence[Scene], after: Tensor, cells: Tensor, colours: Mapping[str, Tensor]
) -> Tensor:
    """(n, 4, 1, 1): of things their colour, else the mean of what the mask holds."""
    means = (after * cells).sum(dim=(2, 3)) / cells.sum(dim=(2, 3))
    found = [
        mean if each.thing is None else colours[each.thing[0]]
        for each, mean in zip(scenes, means, strict=True)
    ]
    return torch.stack(found)[:, :, None, None].half()


def _plain_colours(vae: Any) -> dict[str, Tensor]:
    """Latents, (4,), of pictures that are one colour and nothing else; their borders left out."""
    flat = [np.full((_FLAT, _FLAT, 3), levels, np.uint8) for levels in COLOURS.values()]
    latents = vae.encode(as_values(flat)).latent_dist.mode()[:, :, 2:-2, 2:-2]
    return dict(zip(COLOURS, latents.mean(dim=(2, 3)), strict=True))
