"""Normal noise for a seed, equal to PyTorch's CPU generator: seeds give diffusers' pictures.

The layout is read off PyTorch's behaviour (ATen's CPU normal kernels): MT19937 seeded with the low
32 bits; 16 values or more take one 32-bit word each and pass Box-Muller in blocks of 16; fewer take
two 64-bit draws per pair through double precision, the odd half kept for the next small draw.
"""

from math import prod

import numpy as np
from numpy.typing import NDArray

from .box_muller import BLOCK, box_muller

_TWO_PI = 2 * np.pi


class TorchNoise:
    """A stream of standard normal noise: successive draws equal successive `torch.randn` calls.

    Equal to `torch.Generator("cpu").manual_seed(seed)` with float32 draws: bit for bit where torch
    uses its AVX2 kernel, within rounding elsewhere. Not thread-safe: one stream per request.
    """

    def __init__(self, seed: int) -> None:
        """Start the stream; `seed` is 0..2**64-1, of which PyTorch's generator uses 32 bits."""
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be 0..2**64-1, got {seed}")
        self._words = np.random.RandomState(seed & 0xFFFFFFFF)
        self._kept: float | None = None  # second half of the last small-draw pair

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw float32 noise of `shape`, mean 0 and variance 1."""
        size = prod(shape)
        values = self._blocks(size) if size >= BLOCK else self._pairs(size)
        return values.reshape(shape)

    def skip(self, shape: tuple[int, ...]) -> None:
        """Move on as `normal(shape)` does, without computing its values."""
        size = prod(shape)
        if size >= BLOCK:
            self._draw_words(size + (BLOCK if size % BLOCK else 0))
        else:
            self._pairs(size)

    def _draw_words(self, count: int) -> NDArray[np.uint32]:
        return self._words.randint(0, 2**32, size=count, dtype=np.uint32)

    def _blocks(self, size: int) -> NDArray[np.float32]:
        whole = size - size % BLOCK
        uniform = _uniform24(self._draw_words(size))
        values = np.empty(size, np.float32)
        values[:whole] = box_muller(uniform[:whole])
        if whole != size:  # torch redraws the last 16 when the length is not a multiple of 16
            values[-BLOCK:] = box_muller(_uniform24(self._draw_words(BLOCK)))
        return values

    def _pairs(self, size: int) -> NDArray[np.float32]:
        return np.array([self._one() for _ in range(size)], np.float32)

    def _one(self) -> float:
        if self._kept is not None:
            value, self._kept = self._kept, None
            return value
        angle, radius = _TWO_PI * self._uniform53(), self._uniform53()
        radius = float(np.sqrt(-2 * np.log1p(-radius)))
        self._kept = float(radius * np.sin(angle))
        return float(radius * np.cos(angle))

    def _uniform53(self) -> float:
        high, low = (int(word) for word in self._draw_words(2))
        return float(((high << 32 | low) & (2**53 - 1)) * 2.0**-53)


def _uniform24(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Uniforms in [0, 1) from the low 24 bits of each word."""
    return (words & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2.0**-24)
