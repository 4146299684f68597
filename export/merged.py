"""A checkpoint's weights with LoRAs merged in, one tensor at a time."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .lora import LoraDeltas
from .tensors import Weights


@dataclass(frozen=True)
class MergedWeights:
    """`weights` + what LoRAs add to them; the files stay as they are."""

    weights: Weights
    role: str
    deltas: LoraDeltas

    @property
    def origin(self) -> str:
        return self.weights.origin

    @property
    def fingerprint(self) -> str:
        both = f"{self.weights.fingerprint} {self.deltas.fingerprint}"
        return hashlib.sha256(both.encode()).hexdigest()

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.weights.shapes()

    def read(self, key: str) -> Tensor:
        return self.deltas.merged(self.role, key, self.weights.read(key))


def merged(weights: Weights, role: str, deltas: LoraDeltas) -> Weights:
    """`weights` as they are if no LoRA touches this role; raises ExportError for misfits."""
    if not deltas.keys(role):
        return weights
    deltas.check_targets(role, weights.shapes())
    return MergedWeights(weights, role, deltas)
