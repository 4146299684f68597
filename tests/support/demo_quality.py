"""What the embedded model paints, as one figure: how often the asked colour is where it should be.

Fixed prompts, seeds and photos at the size the model was trained for. The shares are those that
version 1 of the model reaches on the CPU; another model brings its own.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from lightfill.engine.pipeline import Inpainter
from lightfill.export.demo.photos import photos, square
from lightfill.export.demo.shapes import COLOURS

SHARES = {1.0: 0.852, 0.95: 0.704}
"""By strength, measured on devices cpu and openvino, which reach the same."""
TOLERANCE = 0.05
EDGE = 256
_SHAPES = ("circle", "square")


def share_of_asked_colours(inpainter: Inpainter, strength: float) -> float:
    """Of every colour on every held-out photo, 4 steps: how many were seen in the mask's middle."""
    across = np.mgrid[:EDGE, :EDGE] - EDGE / 2
    from_middle = np.hypot(*across)
    mask = np.where(from_middle < EDGE / 4, 255, 0).astype(np.uint8)
    seen = []
    for number, (photo, colour) in enumerate(product(photos("held_out").values(), COLOURS)):
        picture = inpainter(
            square(photo, EDGE), mask, f"a {colour} {_SHAPES[number % len(_SHAPES)]}",
            image_size=(EDGE, EDGE), steps=4, strength=strength, seed=1,
        ).images[0]  # fmt: skip
        middle = np.median(np.asarray(picture)[from_middle < EDGE / 10], axis=0)
        seen.append(_named(middle) == colour)
    return float(np.mean(seen))


def _named(level: NDArray[np.float64]) -> str:
    """The nearest of the colours that captions know."""
    return min(COLOURS, key=lambda name: float(np.abs(level - COLOURS[name]).sum()))
