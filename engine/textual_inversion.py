"""Learned token vectors (textual inversion) read from safetensors files, never unpickled.

Two key layouts exist for SDXL: `clip_l`/`clip_g` (diffusers' trainer) and `text_encoders_0`/`_1`
(cog-sdxl). Row i of both tensors belongs to the i-th token; a single token takes all rows.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from .errors import FileDownloadError, InvalidInput

DEFAULT_TOKENS = ("<s0>", "<s1>")
_KEYS = {
    "text_encoder": ("clip_l", "text_encoders_0"),
    "text_encoder_2": ("clip_g", "text_encoders_1"),
}
MAX_BYTES = 64 << 20
_MAX_HEADER = 1 << 20
"""Bytes of safetensors' list of tensors: 45 MB of empty ones take 21 s and 1.4 GB, measured."""
_MAX_TOKENS, _MAX_TOKEN_LENGTH = 100, 100
"""Of one file, and in characters. A prompt has room for 75 tokens."""


@dataclass(frozen=True)
class Embedding:
    """A textual inversion to use: a safetensors file and the tokens that stand for its vectors."""

    path: str | os.PathLike[str] | bytes
    """The file, or its content."""
    tokens: Sequence[str] = DEFAULT_TOKENS

    @classmethod
    def of(cls, given: Any) -> Self:
        """An `Embedding` as it is, or made from {"path", "tokens"}; InvalidInput for the rest."""
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping) or "path" not in given or set(given) - {"path", "tokens"}:
            raise InvalidInput(
                "embeddings", f'{given!r} is none; pass {{"path": ..., "tokens": [...]}}'
            )
        return cls(given["path"], given.get("tokens", DEFAULT_TOKENS))


@dataclass(frozen=True)
class TextualInversion:
    """Vectors for new tokens: per text encoder, one (rows, width) float32 array per token."""

    tokens: tuple[str, ...]
    vectors: Mapping[str, tuple[NDArray[np.float32], ...]]
    digest: str
    """SHA-256 of the file and the tokens: equal digests give equal conditioning."""


def load_textual_inversion(
    source: str | os.PathLike[str] | bytes, tokens: Sequence[str] = DEFAULT_TOKENS
) -> TextualInversion:
    """Read a safetensors file, or its bytes, for `tokens`; InvalidInput names what does not fit."""
    _check_tokens(tokens)
    data, name = (source, "the file") if isinstance(source, bytes) else (_read(source), source)
    _check_size(len(data), name)
    if int.from_bytes(data[:8], "little") > _MAX_HEADER and data[8:9] == b"{":
        raise InvalidInput("embeddings", f"{name} lists too many tensors: no embedding; check it")
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise InvalidInput(
            "embeddings",
            f"{name} cannot be read as float16 or float32 safetensors ({error}); pickled files "
            "(.pt, .bin) are never opened: save the vectors with safetensors",
        ) from error
    vectors = {
        encoder: _split(_pick(tensors, keys, name), tokens, name) for encoder, keys in _KEYS.items()
    }
    digest = hashlib.sha256(data + "\0".join(tokens).encode()).hexdigest()
    return TextualInversion(tuple(tokens), vectors, digest)


def _check_tokens(tokens: Any) -> None:
    listed = isinstance(tokens, list | tuple) and all(isinstance(token, str) for token in tokens)
    if not listed or not all(token.strip() for token in tokens) or not tokens:
        raise InvalidInput("embeddings", f"tokens {tokens!r} must be a list of words")
    if len(tokens) > _MAX_TOKENS or any(len(token) > _MAX_TOKEN_LENGTH for token in tokens):
        most = f"at most {_MAX_TOKENS} tokens of {_MAX_TOKEN_LENGTH} characters"
        raise InvalidInput("embeddings", f"a file has {most}; pass those it was trained with")
    if any("\ud800" <= character <= "\udfff" for token in tokens for character in token):
        raise InvalidInput("embeddings", f"tokens {tokens!r} hold half a surrogate pair")
    if len(set(tokens)) != len(tokens):
        raise InvalidInput("embeddings", f"tokens {list(tokens)} must differ from one another")


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        file = Path(path)
        size = file.stat().st_size
        data = file.read_bytes() if size <= MAX_BYTES else b""
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileDownloadError(
            "embeddings", f"{path} cannot be read: {reason}; check the path"
        ) from error
    _check_size(size, path)
    return data


def _check_size(size: int, name: object) -> None:
    if size > MAX_BYTES:
        raise InvalidInput("embeddings", f"{name} is larger than 64 MB: no embedding; check it")


def _pick(
    tensors: Mapping[str, NDArray[Any]], keys: Sequence[str], path: object
) -> NDArray[np.float32]:
    for key in keys:
        if key in tensors:
            array = np.atleast_2d(tensors[key]).astype(np.float32)
            if array.ndim != 2 or not np.isfinite(array).all():
                raise InvalidInput("embeddings", f"{path}: {key} is no finite (rows, width) matrix")
            return array
    raise InvalidInput(
        "embeddings",
        f"{path} holds {sorted(tensors)[:9]} but neither {' nor '.join(keys)}; "
        "use a textual inversion trained for SDXL",
    )


def _split(
    array: NDArray[np.float32], tokens: Sequence[str], path: object
) -> tuple[NDArray[np.float32], ...]:
    if len(tokens) == 1:
        return (array,)
    if len(array) != len(tokens):
        raise InvalidInput(
            "embeddings", f"{path} has {len(array)} vectors for {len(tokens)} tokens {list(tokens)}"
        )
    return tuple(array[i : i + 1] for i in range(len(tokens)))
