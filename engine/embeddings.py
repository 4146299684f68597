"""Textual inversions as a caller gives them: `Embedding`, or a mapping with the same names."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidInput
from .text import TextConditioner
from .textual_inversion import DEFAULT_TOKENS, TextualInversion, load_textual_inversion


@dataclass(frozen=True)
class Embedding:
    """A textual inversion to use: a safetensors file and the tokens that stand for its vectors."""

    path: str | os.PathLike[str]
    tokens: Sequence[str] = DEFAULT_TOKENS


def load_embeddings(given: Any, conditioner: TextConditioner) -> list[TextualInversion]:
    """The textual inversions of a request, as wide as the conditioner's towers, or InvalidInput."""
    if not isinstance(given, Sequence):
        raise InvalidInput("embeddings", f"{given!r} is no list; pass a list of them")
    inversions = []
    for each in given:
        embedding = _embedding(each)
        inversion = load_textual_inversion(embedding.path, embedding.tokens)
        conditioner.check_widths(inversion)
        inversions.append(inversion)
    return inversions


def _embedding(given: Any) -> Embedding:
    if isinstance(given, Embedding):
        return given
    if not isinstance(given, Mapping) or "path" not in given or set(given) - {"path", "tokens"}:
        raise InvalidInput(
            "embeddings", f'{given!r} is none; pass {{"path": ..., "tokens": [...]}}'
        )
    return Embedding(given["path"], given.get("tokens", DEFAULT_TOKENS))
