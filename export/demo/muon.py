"""Muon: gradient steps whose singular values are all about 1, for the matrices inside a network.

Momentum, made nearly orthogonal by five Newton-Schulz iterations (Jordan et al. 2024, "Muon"), and
scaled so that AdamW's learning rates and weight decay suit it (Liu et al. 2025, arXiv 2502.16982,
section 2.2). PyTorch's own takes no convolutions and computes in bfloat16, slow on most CPUs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x x' x and x x' x x' x: Jordan's, that raise small singular values fastest."""
_ITERATIONS = 5
_MOMENTUM = 0.95
_RMS = 0.2
"""Root mean square of AdamW's updates, as Liu et al. found it."""


class Muon:
    """Updates weights of two dimensions or more in place; a convolution is a matrix of filters.

    weight_decay: the share of a weight, times the learning rate, that every step takes away.
    """

    def __init__(self, weights: Sequence[Tensor], weight_decay: float) -> None:
        self._weights, self._decay = list(weights), weight_decay
        self._momenta = [torch.zeros_like(weight) for weight in self._weights]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One step against the weights' gradients; those without one stay."""
        for weight, momentum in zip(self._weights, self._momenta, strict=True):
            if weight.grad is None:
                continue
            momentum.lerp_(weight.grad, 1 - _MOMENTUM)
            ahead = weight.grad.lerp(momentum, _MOMENTUM)
            matrix = orthogonal(ahead.reshape(len(weight), -1))
            rate = learning_rate * _RMS * max(matrix.shape) ** 0.5
            weight.mul_(1 - learning_rate * self._decay)
            weight.add_(matrix.reshape(weight.shape), alpha=-rate)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """What a run that goes on needs."""
        return {"momenta": self._momenta}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Go on with what `state_dict` gave for the same weights; ValueError for fewer or more."""
        for momentum, kept in zip(self._momenta, state["momenta"], strict=True):
            momentum.copy_(kept)


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V' of a matrix U S V': (rows, columns), singular values between 0.6 and 1.3."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    first, third, fifth = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = first * x + (third * square + fifth * square @ square) @ x
    made: Tensor = x.T if tall else x
    return made
