"""A language model of a few formulas, its tokenizer, and what it continues a text with."""

import random
from pathlib import Path

import numpy as np
from bundles import bundle_with, summing_language_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lightfill.engine.bundle import Bundle
from lightfill.engine.language_model import MAX_NEW_TOKENS, sampled

CORPUS = ("a cat on the grass, highly detailed, sharp focus, soft light", "the old house, the sea")


def byte_tokenizer() -> Tokenizer:
    """Byte-level BPE as GPT-2 has it, with some merges, and the token that ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


TOKENIZER = byte_tokenizer()
SIZE = TOKENIZER.get_vocab_size()
END = TOKENIZER.token_to_id("<end>")
NEWLINE = TOKENIZER.encode("\n").ids[0]
ROWS = 97
EXTRA_ROWS = 5
"""A model's table may be longer than its vocabulary."""


def table(seed: int = 0, **biases: float) -> np.ndarray:
    """Random logits that prefer the corpus's tokens; `biases` raise the end and the line break."""
    logits = np.random.default_rng(seed).normal(0, 1, (ROWS, SIZE + EXTRA_ROWS))
    for text in CORPUS:
        logits[:, TOKENIZER.encode(text).ids] += 4
    logits[:, END] = biases.get("end", -50)
    logits[:, NEWLINE] = biases.get("newline", -50)
    logits[:, SIZE:] = 60  # never to be sampled
    return logits.astype(np.float32)


def reference(prompt: str, logits: np.ndarray, draw: random.Random) -> list[str]:
    """What the model of `table` continues with, without session, cache or incremental feeding."""
    tokens, new, texts = TOKENIZER.encode(prompt).ids, [], []
    while len(new) < MAX_NEW_TOKENS:
        new.append(sampled(logits[sum(tokens + new) % ROWS, :SIZE], draw))
        text = TOKENIZER.decode(new)
        if new[-1] == END or "\n" in text:
            break
        texts.append(text.replace("\ufffd", ""))
    return texts


def bundle_of(tmp_path: Path, logits: np.ndarray) -> Bundle:
    model = summing_language_model(logits)
    return Bundle.open(bundle_with(tmp_path / "bundle", "prompt_expander", model, TOKENIZER))
