"""The painted pixels go back into the caller's picture; every other pixel stays bit for bit.

The edge is softened inwards only: opacity rises from the mask's border to full over `feather`
pixels inside it, sooner where the mask is thinner than that.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_FEATHER = 64
"""Pixels at the working size; `crop_to_mask` scales them to the photo's."""
MAX_PHOTO_FEATHER = 256

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def composite(source: Pixels, painted: Pixels, mask: Mask, feather: int) -> Pixels:
    """`painted` over `source` inside `mask`; all (height, width[, 3]), a new array is returned.

    `feather` is the width of the soft edge in pixels, 0 for a hard one.
    """
    result = source.copy()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return result
    # One pixel of margin where there is one: the border's distance is measured from outside.
    area = (
        slice(max(rows[0] - 1, 0), rows[-1] + 2),
        slice(max(columns[0] - 1, 0), columns[-1] + 2),
    )
    if feather == 0:
        np.copyto(result[area], painted[area], where=mask[area][..., None])
        return result
    opacity = edge_opacity(mask[area], feather).astype(np.uint16)[..., None]
    # Exact at both ends: opacity 0 gives the source's value, 255 the painted one's.
    mixed = source[area] * (255 - opacity)
    mixed += painted[area] * opacity
    mixed += 127
    mixed //= 255
    result[area] = mixed
    return result


def edge_opacity(mask: Mask, feather: int) -> NDArray[np.uint8]:
    """Opacity 0..255 per pixel: 0 outside the mask, 255 at `feather` pixels from its border.

    A part thinner than twice the feather reaches 255 at its middle, so strokes are never faint.
    The picture's own edge is no border of the mask.
    """
    depth = _depth(mask, feather)
    thickest = _neighbourhood_maximum(depth, feather)
    full = np.minimum(thickest, np.float32(feather))
    full[full == 0] = 1  # outside, where depth is 0 as well
    opacity = np.minimum(depth / full, np.float32(1))
    rounded: NDArray[np.uint8] = np.rint(opacity * 255).astype(np.uint8)
    return rounded


def _depth(mask: Mask, limit: int) -> NDArray[np.float32]:
    """Euclidean distance to the nearest pixel outside the mask, exact up to `limit`, float32.

    Two passes (Felzenszwalb & Huttenlocher's separation), each over the few offsets that matter.
    """
    far = limit + 1
    across = np.where(mask, np.uint16(far), np.uint16(0))
    for _ in range(limit):  # distance along the row, one pixel further each time
        np.minimum(across[:, 1:], across[:, :-1] + np.uint16(1), out=across[:, 1:])
        np.minimum(across[:, :-1], across[:, 1:] + np.uint16(1), out=across[:, :-1])
        if across.max() < far:
            break
    # Half the memory traffic where the largest sum of two squares fits, as at the working size.
    kind = np.uint16 if far**2 + limit**2 < 2**16 else np.uint32
    squared: NDArray[Any] = across.astype(kind) ** 2
    nearest = squared.copy()
    for offset in range(1, min(limit, len(mask) - 1) + 1):
        step = kind(offset * offset)
        np.minimum(nearest[offset:], squared[:-offset] + step, out=nearest[offset:])
        np.minimum(nearest[:-offset], squared[offset:] + step, out=nearest[:-offset])
    distance: NDArray[np.float32] = np.sqrt(nearest, dtype=np.float32)
    return distance


def _neighbourhood_maximum(values: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Largest value within `radius` rows and columns, by doubling steps along each axis."""
    result = values
    for axis in (0, 1):
        result = _running_maximum(result.swapaxes(0, axis), radius).swapaxes(0, axis)
    return result


def _running_maximum(values: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    result = values.copy()
    reach = 0
    while reach < radius:
        step = min(reach + 1, radius - reach, len(values) - 1)
        if step == 0:
            break
        previous = result.copy()
        np.maximum(result[step:], previous[:-step], out=result[step:])
        np.maximum(result[:-step], previous[step:], out=result[:-step])
        reach += step
    return result
