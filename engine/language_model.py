"""A causal language model that continues a text, one sampled token after the other.

It runs on the CPU with a cache of keys and values (`components.PROMPT_EXPANDER`): a step costs one
token, not the whole text again.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .errors import ContractViolation
from .manifest import Tokenizer as TokenizerEntry
from .sessions import Session

TOP_K = 50
"""Every token is drawn from this many likeliest ones, at temperature 1: transformers' sampling, as
model cards of prompt expanders (MagicPrompt-Stable-Diffusion) use it."""
MAX_NEW_TOKENS = 75
"""No more are sampled; CLIP's window holds 75 beside its two frame tokens."""
_CONTEXT_TOKENS = 256
"""How much of the text's end the model sees: GPT-2 has 1024 positions, a prompt takes far fewer."""


class LanguageModel:
    """A bundle's prompt expander with its tokenizer. Thread-safe, as its session is."""

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        entry: TokenizerEntry,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self._session = session
        self._tokenizer = tokenizer
        self._entry = entry
        self._vocabulary_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self._nothing_before = _empty_cache(session)

    def continuations(self, text: str, draw: random.Random) -> Iterator[str]:
        """What follows `text`, growing by one token at a time.

        Ends at the model's end-of-text token, at a line break, or after `max_new_tokens`.
        """
        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids[-_CONTEXT_TOKENS:]
        feed = np.array([tokens or [self._entry.bos_token_id]], np.int64)
        past = self._nothing_before
        new: list[int] = []
        while len(new) < self.max_new_tokens:
            results = self._session.run({"input_ids": feed, "past": past})
            token = sampled(results["logits"][0, : self._vocabulary_size], draw)
            if token == self._entry.eos_token_id:
                return
            new.append(token)
            continuation = self._tokenizer.decode(new, skip_special_tokens=True)
            if "\n" in continuation:
                return
            yield continuation.replace("\ufffd", "")  # half a character, which a later token ends
            feed, past = np.array([[token]], np.int64), results["present"]


def sampled(logits: NDArray[Any], draw: random.Random) -> int:
    """A token drawn from the softmax of the `TOP_K` largest `logits` (vocabulary,)."""
    likeliest = np.argsort(-logits.astype(np.float64), kind="stable")[:TOP_K]
    best = logits[likeliest].astype(np.float64)
    cumulated = np.cumsum(np.exp(best - best[0]))
    index = np.searchsorted(cumulated, draw.random() * cumulated[-1], side="right")
    return int(likeliest[min(int(index), len(likeliest) - 1)])


def _empty_cache(session: Session) -> NDArray[Any]:
    """The first call's `past`: (layers, 2, 1, heads, 0, head width), the model's own widths."""
    spec = session.inputs["past"]
    layers, _, _, heads, _, width = spec.shape
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(width, int)):
        raise ContractViolation(
            f"{session.component} leaves its layers, heads or width open ({spec.shape}); export it "
            "again with this version of lightfill"
        )
    return np.zeros((layers, 2, 1, heads, 0, width), spec.dtype)
