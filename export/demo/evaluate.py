"""`python -m lightfill.export.demo.evaluate`: what a bundle paints, named by the judge of renders.

Prompts on held-out photos and fresh grounds go through the pipeline that users get. Writes a JSON
file with every figure, and contact sheets on which failures are framed in red.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...engine.bundle import DEMO_BUNDLE
from ...engine.pipeline import Inpainter
from .classifier import Judge, accuracy, crop, keep, load, trained
from .photos import photos, scenic
from .scenes import Scene, scene
from .shapes import COLOURS, SHAPES
from .textures import TEXTURES, Pixels

JUDGE = Path(__file__).parent / "judge.safetensors"
_SEED = 555_000
_FILLS_EACH = 6
_COLUMNS = 12


@dataclass(frozen=True)
class Trial:
    """before, mask: what the model is given; prompt; wanted: kind and name that should be seen."""

    before: Pixels
    mask: Pixels
    prompt: str
    wanted: dict[str, str]


def main() -> None:
    """Measure a bundle and write figures and contact sheets into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=DEMO_BUNDLE)
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("build/demo-quality"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if not JUDGE.exists():
        keep(trained(), JUDGE)
    judge = load(JUDGE)
    figures: dict[str, object] = {"judge": accuracy(judge)}
    with Inpainter.open(asked.bundle) as inpainter:
        for steps, strength in ((4, 1.0), (4, 0.95), (8, 1.0), (2, 1.0), (1, 1.0)):
            name = f"{steps} steps, strength {strength}"
            figures[name] = _measured(inpainter, judge, asked.edge, steps, strength, asked.out)
            print(name, figures[name], flush=True)
    (asked.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


def trials(edge: int) -> list[Trial]:
    """Every colour of every shape, every ground a few times; on what training never saw."""
    grounds = scenic(photos("held_out"))
    things = iter(_scenes(edge, grounds, fills=False))
    found: list[Trial] = []
    for colour, shape in product(COLOURS, SHAPES):
        place = next(things)
        outline = "circle" if shape == "ball" else shape
        wanted = {"colour": colour, "shape": outline}
        found.append(Trial(place.before, place.mask, f"a {colour} {shape}", wanted))
    left = dict.fromkeys(TEXTURES, _FILLS_EACH)
    for place in _scenes(edge, grounds, fills=True):
        ground = str(place.ground)
        if left[ground]:
            left[ground] -= 1
            found.append(Trial(place.before, place.mask, ground, {"ground": ground}))
        if not any(left.values()):
            return found
    raise AssertionError("scenes never end")


def _scenes(edge: int, grounds: Sequence[Pixels], *, fills: bool) -> Iterator[Scene]:
    number = 0
    while True:
        made = scene(edge, np.random.Generator(np.random.PCG64([_SEED, number])), grounds)
        number += 1
        if (made.thing is None) == fills:
            yield made


def _measured(
    inpainter: Inpainter, judge: Judge, edge: int, steps: int, strength: float, out: Path
) -> dict[str, float]:
    """Shares of trials in which the judge sees what was asked for, and the seam's energy."""
    made = trials(edge)
    painted = [
        np.asarray(
            inpainter(
                trial.before, trial.mask, trial.prompt, image_size=(edge, edge), steps=steps,
                strength=strength, seed=number,
            ).images[0]
        )
        for number, trial in enumerate(made)
    ]  # fmt: skip
    seen = judge.names(
        [crop(picture, each.mask) for picture, each in zip(painted, made, strict=True)]
    )
    right = [{kind: names[kind] == name for kind, name in trial.wanted.items()}
             for names, trial in zip(seen, made, strict=True)]  # fmt: skip
    figures = {
        kind: round(float(np.mean([each[kind] for each in right if kind in each])), 3)
        for kind in ("colour", "shape", "ground")
    }
    seams = [
        seam(picture, each.before, each.mask) for picture, each in zip(painted, made, strict=True)
    ]
    figures["seam"] = round(float(np.median(seams)), 3)
    _sheet(painted, [all(each.values()) for each in right]).save(out / f"{steps}-{strength}.png")
    return figures


def seam(picture: Pixels, before: Pixels, mask: Pixels) -> float:
    """Mean step between neighbours across the mask's edge, over the photo's own outside it."""
    inside = mask > 127
    across, own = [], []
    for axis in (0, 1):
        one, other = (_without(inside, axis, end) for end in (-1, 0))
        steps = np.abs(np.diff(picture.astype(np.float64), axis=axis)).mean(axis=2)
        natural = np.abs(np.diff(before.astype(np.float64), axis=axis)).mean(axis=2)
        across.append(steps[one != other])
        own.append(natural[~one & ~other])
    return float(np.concatenate(across).mean() / max(np.concatenate(own).mean(), 1e-6))


def _without(plane: NDArray[np.bool_], axis: int, end: int) -> NDArray[np.bool_]:
    """A plane without its first (0) or last (-1) row or column."""
    kept = slice(1, None) if end == 0 else slice(None, -1)
    return plane[kept] if axis == 0 else plane[:, kept]


def _sheet(pictures: Sequence[Pixels], right: Sequence[bool]) -> Image.Image:
    """All pictures at half size, those that the judge did not see as asked framed in red."""
    edge = pictures[0].shape[0] // 2
    rows = -(-len(pictures) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * edge, rows * edge))
    pen = ImageDraw.Draw(sheet)
    for number, (picture, good) in enumerate(zip(pictures, right, strict=True)):
        left, top = number % _COLUMNS * edge, number // _COLUMNS * edge
        sheet.paste(Image.fromarray(picture).resize((edge, edge)), (left, top))
        if not good:
            pen.rectangle(
                (left, top, left + edge - 1, top + edge - 1), outline=(230, 0, 0), width=3
            )
    return sheet


if __name__ == "__main__":
    main()
