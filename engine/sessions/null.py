"""Constant outputs of the right shape: to measure what the host costs, and for users' own tests."""

from collections.abc import Mapping

import numpy as np

from ..bundle import Bundle
from ..components import Dimension, symbol_of
from .base import ARITHMETIC, Array, Feed, Session, sizes_of, specs_of


class NullSession(Session):
    """Answers zeros for every output without loading any weights.

    Widths that a real graph fixes (hidden states, pooled vector) follow the bundle's embedding
    tables, so the whole pipeline runs on it.
    """

    def __init__(self, bundle: Bundle, component: str) -> None:
        contract = bundle.contract(component)
        widths = _widths(bundle)
        super().__init__(
            component,
            "null",
            inputs=specs_of(contract.inputs, ARITHMETIC["null"]),
            outputs=specs_of(contract.outputs, ARITHMETIC["null"]),
        )
        self._contract = contract
        self._open_width = widths.get(component, 0)
        self._constants: dict[tuple[int, ...], Array] = {}

    def _run(self, feed: Feed) -> dict[str, Array]:
        sizes = sizes_of(self._contract.inputs, feed)
        results = {}
        for name, tensor in self._contract.outputs.items():
            shape = tuple(
                _resolve(dimension, sizes, self._open_width) for dimension in tensor.shape
            )
            if shape not in self._constants:
                self._constants[shape] = np.zeros(shape, np.float32)
                self._constants[shape].flags.writeable = False
            results[name] = self._constants[shape]
        return results

    def close(self) -> None:
        self._constants.clear()


def _widths(bundle: Bundle) -> dict[str, int]:
    return {
        name: bundle.token_embedding(name).shape[1] for name in ("text_encoder", "text_encoder_2")
    }


def _resolve(dimension: Dimension, sizes: Mapping[str, int], open_width: int) -> int:
    if isinstance(dimension, int):
        return dimension
    if dimension is None:
        return open_width
    factor, symbol = symbol_of(dimension)
    return factor * sizes[symbol]
