"""One component to be exported: its architecture, where its weights are, what identifies it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.manifest import AppliedLora, Arithmetic, Source
from .architecture import Architecture, build
from .tensors import Weights, check_shapes
from .tokenizer_files import TokenizerFile


@dataclass(frozen=True)
class Part:
    """A component by its name in the bundle.

    table: checkpoint key of the token embedding, for roles that keep it outside the graph.
    tokenizer: of a component with a vocabulary of its own.
    """

    name: str
    role: str
    config: Mapping[str, Any]
    weights: Weights
    source: Source
    loras: tuple[AppliedLora, ...] = ()
    table: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tokenizer: TokenizerFile | None = None

    def __post_init__(self) -> None:
        """Raise ExportError unless configuration and weights fit each other."""
        shapes = {**self.architecture().shapes, **self.table}
        check_shapes(self.weights, shapes, self.name)

    def architecture(self) -> Architecture:
        """A module of its own for every call: tracing and verifying use theirs up."""
        return build(self.role, self.config, f"{self.source.checkpoint}: {self.role}")

    @property
    def numbers(self) -> int:
        """How many weights there are."""
        return self.architecture().parameters

    def made_from(self, stored: Arithmetic) -> str:
        """SHA-256 of all that decides the component: equal for equal components."""
        described = json.dumps(
            [self.role, self.architecture().config, self.weights.fingerprint, stored],
            sort_keys=True,
            default=str,
        )
        return hashlib.sha256(described.encode()).hexdigest()
