"""Single values from outside, checked: each returns a plain value or raises InvalidInput."""

from math import isnan
from typing import Any

import numpy as np

from .errors import InvalidInput


def flag(field: str, value: Any) -> bool:
    """`value` as a bool; anything but True and False is refused."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidInput(field, f"must be True or False, got {value!r}")
    return bool(value)


def whole_number(field: str, value: Any, low: int, high: int) -> int:
    """`value` as an int in low..high, or InvalidInput naming `field`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidInput(field, f"must be a whole number from {low} to {high}, got {value!r}")
    if not low <= value <= high:
        raise InvalidInput(field, f"must be from {low} to {high}, got {value}")
    return int(value)


def real_number(field: str, value: Any, low: float, high: float) -> float:
    """`value` as a float in low..high, or InvalidInput naming `field`."""
    real = isinstance(value, int | float | np.integer | np.floating)
    if not real or isinstance(value, bool) or (not isinstance(value, int) and isnan(value)):
        raise InvalidInput(field, f"must be a number from {low:g} to {high:g}, got {value!r}")
    if not low <= value <= high:
        raise InvalidInput(field, f"must be from {low:g} to {high:g}, got {value}")
    return float(value)


def step_counts(text: str) -> list[int]:
    """The whole numbers of "8,4", ascending, each once; InvalidInput for anything else."""
    try:
        return sorted({int(count) for count in text.split(",")})
    except ValueError:
        raise InvalidInput("steps", f"{text!r} is no list of numbers; write it as 4,8") from None
