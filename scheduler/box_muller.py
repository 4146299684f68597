"""The Box-Muller transform, rounded as PyTorch's vectorised CPU kernel rounds it.

Log, sine and cosine are the single-precision polynomials of the Cephes library (S. L. Moshier:
`logf`, `sinf`, `cosf`), evaluated with fused multiply-adds in the order that makes every result
equal PyTorch's bit for bit. A fused multiply-add is a float64 product and sum, rounded once.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 16
"""Values per block: eight radii and eight angles give eight cosines and eight sines."""

_LOG = (
    -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_LOG_FIRST = 7.0376836292e-2
_LN2_LOW, _LN2_HIGH = -2.12194440e-4, 0.693359375
_COSINE = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_SINE = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_FOUR_OVER_PI = np.float32(1.27323954473516)
_QUARTER_PI = (-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8)
"""-pi/4 in three parts, so that subtracting multiples of it loses nothing."""


def box_muller(uniform: Floats) -> Floats:
    """Standard normal values from uniforms in [0, 1), both (n,), n a multiple of 16."""
    blocks = uniform.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(np.float32(-2) * _log(np.float32(1) - blocks[:, 0]))
    sine, cosine = _sine_and_cosine(np.float32(2 * np.pi) * blocks[:, 1])
    return np.stack([radius * cosine, radius * sine], axis=1).reshape(-1)


def _log(x: Floats) -> Floats:
    """Natural logarithm of x in (0, 1]: x = mantissa * 2^exponent, the mantissa around 1."""
    mantissa, power = np.frexp(x)
    small = mantissa < np.float32(np.sqrt(0.5))
    exponent = (power - small).astype(np.float32)
    m = np.where(small, mantissa + mantissa, mantissa) - np.float32(1)
    square = m * m
    y = _polynomial(m, _LOG_FIRST, *_LOG) * m
    y = _fused(y, square, exponent * np.float32(_LN2_LOW))
    y = _fused(square, -0.5, y)
    return _fused(exponent, _LN2_HIGH, m + y)


def _sine_and_cosine(x: Floats) -> tuple[Floats, Floats]:
    """Sine and cosine of x in [0, 2 pi): x is reduced to the nearest even multiple of pi/4."""
    octant = ((x * _FOUR_OVER_PI).astype(np.int32) + 1) & ~1
    eighths = octant.astype(np.float32)
    for part in _QUARTER_PI:
        x = _fused(eighths, part, x)
    square = x * x
    half = square * np.float32(0.5)
    cosine = _fused(_polynomial(square, *_COSINE) * square, square, -half) + np.float32(1)
    sine = _fused(_polynomial(square, *_SINE) * square, x, x)
    quarter_turn = (octant & 2) != 0
    turned_sine = np.where(quarter_turn, cosine, sine)
    turned_cosine = np.where(quarter_turn, sine, cosine)
    return (
        np.where((octant & 4) != 0, -turned_sine, turned_sine),
        np.where(((octant + 2) & 4) != 0, -turned_cosine, turned_cosine),
    )


def _polynomial(x: Floats, first: float, *others: float) -> Floats:
    """Horner's scheme with fused steps, highest power first."""
    wide = x.astype(np.float64)
    y = np.full_like(x, first)
    for coefficient in others:
        y = (y * wide + float(np.float32(coefficient))).astype(np.float32)
    return y


def _fused(a: Floats, b: Floats | float, c: Floats) -> Floats:
    """a * b + c with a single rounding; `b` is taken in float32."""
    product = a.astype(np.float64) * np.asarray(b, np.float32).astype(np.float64)
    return (product + c).astype(np.float32)
