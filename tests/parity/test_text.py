"""Prompts become the tokens transformers sees and the conditioning diffusers computes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from conditioning import assert_same_conditioning
from diffusers import StableDiffusionXLInpaintPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_checkpoint import DEMO_CHECKPOINT
from transformers import CLIPTokenizer

from lightfill.engine.bundle import Bundle
from lightfill.engine.sessions import Session, TensorSpec
from lightfill.engine.text import TextConditioner

PROMPTS = (
    "",
    " ",
    "\t\n  \r\n",
    "a photo of a red ball on the grass",
    "  A   PHOTO\nof\ta   Cat  ",
    "!!!",
    "!",
    "wow! what a view!! truly!!!",
    "don't can't I'll we've you're he'd it's I'm 'tis o'clock rock'n'roll",
    "1234567890 3.14 1,000,000 2nd",
    "naïve café façade Ångström STRASSE straße İstanbul",
    "cafe\u0301 \ufb01ne \uff46\uff55\uff4c\uff4c",  # combining accent, ligature, full width
    "猫がベンチに座っている 고양이 кошка قطة",
    "🐱🐶 👩‍👩‍👧‍👦 🇫🇷 👍🏽 ❤️",
    "zero\u200bwidth non\u00a0breaking soft\u00adhyphen \u202eright to left",
    "\x00 \x07 \x1b[31m \x7f",
    "<|endoftext|>",
    "before <|endoftext|> after",
    "<|startoftext|>a<|endoftext|>b",
    "<|ENDOFTEXT|> endoftext </w> <s0> <unk>",
    "https://example.org/a?b=c&d=%20 a_b-c:d;e (f) [g] {h} #i @j $k ^l ~m `n`",
    "(masterpiece:1.2), best quality, ((detailed))",
    "word " * 74,
    "word " * 75,
    "word " * 76,
    "a very long prompt, with commas, " * 20,
    "x" * 500,
    "🐱" * 60,
)
TOWERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}


class IdTable(Bundle):
    """A bundle whose token vectors are the token ids themselves, so that sessions see the ids."""

    def token_embedding(self, name: str) -> NDArray[Any]:
        return np.arange(49408, dtype=np.float32)[:, None]


class RecordingSession(Session):
    """Keeps the last feed and answers a constant."""

    def __init__(self, component: str) -> None:
        inputs = {"inputs_embeds": TensorSpec(np.dtype(np.float32), ("batch", 77, 1))}
        if component == "text_encoder_2":
            inputs["eos_position"] = TensorSpec(np.dtype(np.int64), ("batch",))
        super().__init__(component, "recording", inputs, outputs={})

    def _run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.feed = feed
        return {"hidden_states": np.zeros((1, 77, 1)), "text_embeds": np.zeros((1, 1))}

    def close(self) -> None: ...


class Windows:
    """Token windows of a prompt, ours and transformers', per text encoder."""

    def __init__(self) -> None:
        bundle = Bundle.open()
        self._sessions = {name: RecordingSession(name) for name in TOWERS}
        self._ours = TextConditioner(
            IdTable(bundle.root, bundle.manifest), *self._sessions.values()
        )
        self._theirs = {
            name: CLIPTokenizer.from_pretrained(DEMO_CHECKPOINT / folder)
            for name, folder in TOWERS.items()
        }

    def check(self, prompt: str) -> None:
        self._ours.encode(prompt)
        for name, tokenizer in self._theirs.items():
            feed = self._sessions[name].feed
            ours = feed["inputs_embeds"][0, :, 0].astype(int).tolist()
            theirs = tokenizer(
                prompt, padding="max_length", max_length=77, truncation=True
            ).input_ids
            assert ours == theirs, name
            if "eos_position" in feed:
                assert feed["eos_position"] == [theirs.index(tokenizer.eos_token_id)]


@pytest.fixture(scope="module")
def windows(private_cache: None) -> Windows:
    return Windows()


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_tokens_equal_transformers(windows: Windows, prompt: str) -> None:
    windows.check(prompt)


words = st.sampled_from(["a photo of", "!", "'s", "n't", "<|endoftext|>", "<|startoftext|>", "9"])
characters = st.characters(exclude_categories=["Cs"])  # a lone surrogate is not text


@settings(max_examples=300, deadline=None)
@given(st.lists(words | st.text(characters, max_size=12), max_size=60).map(" ".join) | st.text())
def test_tokens_equal_transformers_for_any_text(windows: Windows, prompt: str) -> None:
    windows.check(prompt)


def test_conditioning_equals_diffusers(
    conditioner: TextConditioner, reference: StableDiffusionXLInpaintPipeline
) -> None:
    worst = max(
        assert_same_conditioning(conditioner.encode(prompt), reference, prompt)
        for prompt in PROMPTS
    )
    print(f"conditioning: largest error {worst:.1e} of the largest value, {len(PROMPTS)} prompts")
