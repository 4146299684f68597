"""A judge of pictures: which colour, shape or ground is in a mask. Trained on renders alone.

It never sees what a model painted, so it cannot learn a model's habits; how often it is right about
fresh renders is part of every table it makes.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from .photos import photos, scenic
from .scenes import scene
from .shapes import COLOURS, SHAPES
from .textures import TEXTURES, Draw, Pixels

EDGE = 64
"""Pixels a side of what is judged: the mask's box, scaled."""
NAMES = {
    "colour": list(COLOURS),
    "shape": [name for name in SHAPES if name != "ball"],  # a ball's outline is a circle's
    "ground": list(TEXTURES),
}
_RENDERED = 128
_SEED = 77_000


class Judge(nn.Module):
    """(n, 3, 64, 64) in [-1, 1] to scores of each name."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                       nn.BatchNorm2d(after), nn.ReLU()]  # fmt: skip
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(128 * (EDGE // 16) ** 2, len(all_)) for name, all_ in NAMES.items()}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        seen = self.body(x)
        return {name: head(seen) for name, head in self.heads.items()}

    @torch.no_grad()
    def names(self, crops: Sequence[Pixels]) -> list[dict[str, str]]:
        """The likeliest name of each kind, for every crop."""
        scores = self.eval()(_values(crops))
        best = {kind: score.argmax(dim=1).tolist() for kind, score in scores.items()}
        return [{kind: NAMES[kind][best[kind][i]] for kind in NAMES} for i in range(len(crops))]


def crop(picture: Pixels, mask: Pixels) -> Pixels:
    """The mask's box out of a picture, (64, 64, 3)."""
    down, across = (np.flatnonzero((mask > 127).any(axis=axis)) for axis in (1, 0))
    part = picture[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
    return np.asarray(Image.fromarray(part).resize((EDGE, EDGE), Image.Resampling.BILINEAR))


def rendered(
    numbers: range, grounds: Sequence[Pixels], *, blurs: bool
) -> tuple[list[Pixels], NDArray[np.int64]]:
    """Crops of scenes and their labels, (n, 3): colour, shape, ground; -1 where it has none."""
    crops, labels = [], []
    for number in numbers:
        draw = np.random.Generator(np.random.PCG64([_SEED, number]))
        made = scene(_RENDERED, draw, grounds)
        seen = crop(made.picture, made.mask)
        crops.append(_blurred(seen, draw) if blurs else seen)
        if made.thing is None:
            labels.append([-1, -1, NAMES["ground"].index(str(made.ground))])
        else:
            colour, shape = made.thing
            outline = "circle" if shape == "ball" else shape
            labels.append([NAMES["colour"].index(colour), NAMES["shape"].index(outline), -1])
    return crops, np.array(labels)


def trained(*, renders: int = 12_000, epochs: int = 8, seed: int = 0) -> Judge:
    """A judge that has seen `renders` renders, some of them blurred and noisy."""
    torch.manual_seed(seed)
    judge = Judge()
    crops, labels = rendered(range(renders), scenic(photos("training")), blurs=True)
    values, wanted = _values(crops), torch.from_numpy(labels)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=1e-2)
    updates = epochs * (renders // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=updates)
    for update in range(updates):
        if update % (renders // 64) == 0:
            order = torch.randperm(renders)
        chosen = order[update % (renders // 64) * 64 :][:64]
        scores = judge.train()(values[chosen])
        loss = sum(
            functional.cross_entropy(score, wanted[chosen, column], ignore_index=-1)
            for column, score in enumerate(scores.values())
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimiser.step()
        schedule.step()
    return judge.eval()


def accuracy(judge: Judge, *, renders: int = 1500) -> dict[str, float]:
    """Share of fresh renders on held-out photos that are named rightly, by kind."""
    numbers = range(10**6, 10**6 + renders)
    crops, labels = rendered(numbers, scenic(photos("held_out")), blurs=False)
    found = judge.names(crops)
    rights: dict[str, float] = {}
    for column, (kind, names) in enumerate(NAMES.items()):
        asked = [i for i in range(renders) if labels[i, column] >= 0]
        right = [found[i][kind] == names[labels[i, column]] for i in asked]
        rights[kind] = sum(right) / len(right)
    return rights


def load(path: Path) -> Judge:
    """A judge from its file."""
    judge = Judge()
    judge.load_state_dict(load_file(path))
    return judge.eval()


def keep(judge: Judge, path: Path) -> None:
    """Write it in float32."""
    save_file(judge.state_dict(), path)


def _blurred(picture: Pixels, draw: Draw) -> Pixels:
    """What a VAE may do to a picture: softer, noisier."""
    image = Image.fromarray(picture)
    if draw.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(draw.uniform(0.3, 2.2)))
    noisy = np.asarray(image) + draw.normal(0, draw.uniform(0, 8), picture.shape)
    levels: Pixels = noisy.clip(0, 255).astype(np.uint8)
    return levels


def _values(crops: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
