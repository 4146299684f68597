"""Prompts become the tokens transformers sees and the conditioning diffusers computes."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_checkpoint import DEMO_CHECKPOINT
from safetensors.numpy import save_file
from transformers import CLIPTokenizer

from lightfill.engine.bundle import Bundle
from lightfill.engine.sessions import Session, SessionOptions, TensorSpec, open_session
from lightfill.engine.text import Conditioning, TextConditioner
from lightfill.engine.textual_inversion import load_textual_inversion

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
ONE_THREAD = SessionOptions(threads=1)
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


@pytest.fixture(scope="module")
def conditioner(bundle: Bundle) -> Iterator[TextConditioner]:
    with (
        open_session(bundle, "text_encoder", options=ONE_THREAD) as encoder,
        open_session(bundle, "text_encoder_2", options=ONE_THREAD) as encoder_2,
    ):
        yield TextConditioner(bundle, encoder, encoder_2)


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_tokens_equal_transformers(windows: Windows, prompt: str) -> None:
    windows.check(prompt)


words = st.sampled_from(["a photo of", "!", "'s", "n't", "<|endoftext|>", "<|startoftext|>", "9"])
characters = st.characters(exclude_categories=["Cs"])  # a lone surrogate is not text


@settings(max_examples=300, deadline=None)
@given(st.lists(words | st.text(characters, max_size=12), max_size=60).map(" ".join) | st.text())
def test_tokens_equal_transformers_for_any_text(windows: Windows, prompt: str) -> None:
    windows.check(prompt)


def assert_same_conditioning(
    ours: Conditioning, pipeline: StableDiffusionXLInpaintPipeline, prompt: str
) -> float:
    with torch.no_grad():
        hidden, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    worst = 0.0
    for found, wanted in ((ours.hidden_states, hidden), (ours.text_embeds, pooled)):
        expected = wanted.numpy()
        assert found.shape == expected.shape
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    assert worst <= 1e-5, prompt
    return worst


def test_conditioning_equals_diffusers(
    conditioner: TextConditioner, reference: StableDiffusionXLInpaintPipeline
) -> None:
    worst = max(
        assert_same_conditioning(conditioner.encode(prompt), reference, prompt)
        for prompt in PROMPTS
    )
    print(f"conditioning: largest error {worst:.1e} of the largest value, {len(PROMPTS)} prompts")


@pytest.mark.parametrize("keys", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
@pytest.mark.parametrize(
    ("tokens", "rows"),
    [(("<s0>", "<s1>"), 2), (("<s0>",), 3), (("sks-cat",), 1)],
    ids=["one vector a token", "three vectors for one token", "one vector"],
)
def test_textual_inversion_equals_diffusers(
    keys: tuple[str, str],
    tokens: tuple[str, ...],
    rows: int,
    load_reference: Callable[[], StableDiffusionXLInpaintPipeline],
    conditioner: TextConditioner,
    tmp_path: Path,
) -> None:
    pipeline = load_reference()
    rng = np.random.default_rng(3)
    learned = {}
    for key, (tower, tokenizer) in zip(keys, TOWERS.items(), strict=True):
        encoder = getattr(pipeline, tower)
        width = encoder.get_input_embeddings().weight.shape[1]
        learned[key] = rng.normal(0, 0.3, (rows, width)).astype(np.float32)
        pipeline.load_textual_inversion(
            torch.from_numpy(learned[key]),
            token=list(tokens) if len(tokens) > 1 else tokens[0],
            text_encoder=encoder,
            tokenizer=getattr(pipeline, tokenizer),
        )
    path = tmp_path / "learned.safetensors"
    save_file(learned, path)
    inversion = load_textual_inversion(path, tokens)

    joined = "".join(tokens)
    for prompt in (
        f"a photo of {joined}",
        f"{tokens[0]}, on grass!",
        f"{tokens[-1]} next to {tokens[0]} and {joined}",
        "word " * 73 + joined,  # the window ends inside the new tokens
        "no new token here",
    ):
        found = conditioner.encode(prompt, [inversion])
        assert_same_conditioning(found, pipeline, prompt)
        if joined in prompt and "word" not in prompt:
            plain = conditioner.encode(prompt).hidden_states
            assert np.abs(found.hidden_states - plain).max() > 0.01
