"""A request's textual inversions, read and checked against the model."""

from collections.abc import Sequence
from typing import Any

from .errors import InvalidInput
from .text import TextConditioner
from .textual_inversion import Embedding, TextualInversion, load_textual_inversion


def load_embeddings(given: Any, conditioner: TextConditioner) -> list[TextualInversion]:
    """`Embedding`s or mappings, read; InvalidInput unless as wide as the conditioner's towers."""
    if not isinstance(given, Sequence):
        raise InvalidInput("embeddings", f"{given!r} is no list; pass a list of them")
    inversions = []
    for each in given:
        embedding = Embedding.of(each)
        inversion = load_textual_inversion(embedding.path, embedding.tokens)
        conditioner.check_widths(inversion)
        inversions.append(inversion)
    return inversions
