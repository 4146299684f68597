"""How far one result is from another: largest error, and decibels of its root mean square."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EQUAL_DB = 999.0
"""Where nothing differs: infinity is not JSON."""


@dataclass(frozen=True)
class Agreement:
    """One part of a model, or the whole picture, on a device against the reference.

    psnr_db: the reference's largest value over the error's root mean square, in decibels.
    """

    part: str
    max_abs_error: float
    psnr_db: float
    minimum_db: float
    passed: bool


def agreement(
    part: str,
    results: dict[str, NDArray[Any]],
    reference: dict[str, NDArray[Any]],
    minimum_db: float,
    *,
    step: float = 0.0,
) -> Agreement:
    """Compare every output; the worst counts. What is rounded to `step` may be one step off."""
    error, psnr = 0.0, EQUAL_DB
    for name, expected in reference.items():
        found = results[name]
        if found.shape != expected.shape:
            return Agreement(part, math.inf, -EQUAL_DB, minimum_db, passed=False)
        difference = found.astype(np.float64) - expected.astype(np.float64)
        error = max(error, float(np.abs(difference).max()))
        psnr = min(psnr, _decibels(difference, _largest(expected)))
    passed = psnr >= minimum_db or error <= 1.01 * step
    return Agreement(part, error, psnr, minimum_db, passed)


def psnr_db(found: NDArray[Any], expected: NDArray[Any], peak: float | None = None) -> float:
    """Decibels of `peak` (None: the largest value expected) over the error's root mean square."""
    difference = found.astype(np.float64) - expected.astype(np.float64)
    return _decibels(difference, _largest(expected) if peak is None else peak)


def _largest(expected: NDArray[Any]) -> float:
    return float(np.abs(expected.astype(np.float64)).max())


def _decibels(difference: NDArray[np.float64], peak: float) -> float:
    error = float(np.sqrt(np.mean(np.square(difference))))
    if error == 0.0:
        return EQUAL_DB
    return max(-EQUAL_DB, min(20 * math.log10(max(peak, 1e-30) / error), EQUAL_DB))
