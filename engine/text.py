"""Prompt to conditioning: CLIP's byte-pair tokens, their embeddings, two text encoders.

The token table is looked up here rather than inside the ONNX graphs, so learned vectors are extra
rows and need no export.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .bundle import Bundle
from .components import TOKENS
from .errors import BundleCorrupt, InvalidInput
from .manifest import TextRole
from .sessions import Session
from .textual_inversion import TextualInversion

_TOWERS: tuple[TextRole, ...] = ("text_encoder", "text_encoder_2")
_KEPT_VOCABULARIES = 8


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told about the prompt, float32 and read-only.

    hidden_states: (1, 77, width 1 + width 2), both encoders' penultimate states side by side.
    text_embeds: (1, projection), the second encoder's pooled vector.
    truncated: the end of the prompt that did not fit into 77 tokens, or None.
    """

    hidden_states: NDArray[np.float32]
    text_embeds: NDArray[np.float32]
    truncated: str | None

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.hidden_states.nbytes + self.text_embeds.nbytes


class TextConditioner:
    """Both text encoders of a bundle with their tokenizers. Thread-safe."""

    def __init__(self, bundle: Bundle, encoder: Session, encoder_2: Session) -> None:
        self._bundle = bundle
        self._sessions = {"text_encoder": encoder, "text_encoder_2": encoder_2}
        self._tables = {name: bundle.token_embedding(name) for name in _TOWERS}
        self._entries = bundle.manifest.tokenizers
        self._vocabulary = lru_cache(maxsize=_KEPT_VOCABULARIES)(self._load_vocabulary)
        for name in _TOWERS:
            self._vocabulary(self._entries[name].file, (), ())

    def encode(self, prompt: str, inversions: Sequence[TextualInversion] = ()) -> Conditioning:
        """Condition on `prompt`, in which `inversions`' tokens stand for their learned vectors."""
        states, truncated = {}, None
        for name in _TOWERS:
            vectors = [vector for inversion in inversions for vector in inversion.vectors[name]]
            window = self._window(name, prompt, inversions)
            states[name] = self._encode_window(name, window, vectors)
            truncated = truncated or window.truncated
        hidden = np.concatenate([states[name]["hidden_states"] for name in _TOWERS], axis=-1)
        pooled = states["text_encoder_2"]["text_embeds"]
        return Conditioning(_frozen(hidden), _frozen(pooled), truncated)

    def fits(self, prompt: str, inversions: Sequence[TextualInversion] = ()) -> bool:
        """Whether the whole of `prompt` has room in both encoders' windows of 77 tokens."""
        windows = (self._window(name, prompt, inversions) for name in _TOWERS)
        return all(window.truncated is None for window in windows)

    def _window(
        self, name: TextRole, prompt: str, inversions: Sequence[TextualInversion]
    ) -> "_Window":
        entry = self._entries[name]
        tokens = tuple(token for inversion in inversions for token in inversion.tokens)
        rows = [len(rows) for inversion in inversions for rows in inversion.vectors[name]]
        vocabulary_size = len(self._tables[name])
        # Special tokens the prompt does not spell change nothing: mostly the towers, which differ
        # in those only, share one loaded vocabulary (each takes a good part of a cold start).
        special = tuple(token for token in entry.special_tokens if token in prompt)
        vocabulary = self._vocabulary(entry.file, special, tokens)
        encoding = vocabulary.encode(prompt, add_special_tokens=False)
        first_row = np.cumsum([0, *rows])
        ids: list[int] = []
        starts: list[int] = []
        for token_id, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
            index = token_id - vocabulary_size
            expanded = (
                [token_id]
                if index < 0
                else range(
                    vocabulary_size + first_row[index], vocabulary_size + first_row[index + 1]
                )
            )
            ids.extend(expanded)
            starts.extend([start] * len(expanded))
        room = TOKENS - 2
        truncated = prompt[starts[room] :] if len(ids) > room else None
        filled = [entry.bos_token_id, *ids[:room], entry.eos_token_id]
        filled += [entry.pad_token_id] * (TOKENS - len(filled))
        # The first end-of-text token: an added token's higher id must not take its place.
        return _Window(np.array(filled), filled.index(entry.eos_token_id), truncated)

    def _encode_window(
        self, name: TextRole, window: "_Window", vectors: Sequence[NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        session, table = self._sessions[name], self._tables[name]
        embeds = np.empty((1, TOKENS, table.shape[1]), np.float32)
        known = window.ids < len(table)
        embeds[0, known] = table[window.ids[known]]
        if not known.all():
            embeds[0, ~known] = np.concatenate(vectors)[window.ids[~known] - len(table)]
        feed = {"inputs_embeds": embeds.astype(session.inputs["inputs_embeds"].dtype, copy=False)}
        if "eos_position" in session.inputs:
            feed["eos_position"] = np.array([window.eos_position])
        return {
            key: value.astype(np.float32, copy=False) for key, value in session.run(feed).items()
        }

    def check_widths(self, inversion: TextualInversion) -> None:
        """Raise InvalidInput unless the vectors are as wide as this bundle's encoders."""
        for name in _TOWERS:
            width = self._tables[name].shape[1]
            found = inversion.vectors[name][0].shape[1]
            if found != width:
                raise InvalidInput(
                    "embeddings",
                    f"vectors for {name} have width {found}, this bundle's {width}; "
                    "use a textual inversion trained for this model",
                )

    def _load_vocabulary(
        self, file: str, special_tokens: tuple[str, ...], tokens: tuple[str, ...]
    ) -> Tokenizer:
        tokenizer = _read_tokenizer(self._bundle.root / file)
        tokenizer.add_special_tokens(list(special_tokens))
        for token in tokens:
            if tokenizer.token_to_id(token) is not None:
                raise InvalidInput(
                    "embeddings", f"token {token!r} is in the vocabulary already; choose another"
                )
        if tokenizer.add_tokens(list(tokens)) != len(tokens):
            raise InvalidInput(
                "embeddings", f"tokens {', '.join(tokens)} repeat; give every embedding its own"
            )
        return tokenizer


@dataclass(frozen=True)
class _Window:
    """77 token ids, where the prompt ends in them, and the text that did not fit."""

    ids: NDArray[np.int64]
    eos_position: int
    truncated: str | None


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise BundleCorrupt(f"{path} is not a tokenizer ({error}); export it again") from error


def _frozen(array: NDArray[np.float32]) -> NDArray[np.float32]:
    array.flags.writeable = False
    return array
