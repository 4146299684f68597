"""The language model of prompt expansion continues, samples and ends as it should."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from language_models import END, ROWS, SIZE, TOKENIZER, bundle_of, reference, table

from lightfill.engine.bundle import DEMO_BUNDLE, Bundle
from lightfill.engine.errors import ContractViolation
from lightfill.engine.language_model import MAX_NEW_TOKENS, TOP_K, LanguageModel, sampled
from lightfill.engine.sessions import Session, SessionOptions, open_session

ONE_THREAD = SessionOptions(threads=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, private_cache: None) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("expander"), table())


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> Iterator[Session]:
    with open_session(bundle, "prompt_expander", options=ONE_THREAD) as opened_session:
        yield opened_session


def language_model(bundle: Bundle, session: Session) -> LanguageModel:
    return LanguageModel(session, TOKENIZER, bundle.manifest.tokenizers["prompt_expander"])


@pytest.mark.parametrize(
    "prompt", ["a cat,", "the old house, the sea", "x", "gr\u00fc\u00df \U0001f431"]
)
def test_continuations_are_those_of_a_model_without_a_cache(
    bundle: Bundle, session: Session, prompt: str
) -> None:
    model = language_model(bundle, session)
    found = list(model.continuations(prompt, random.Random(3)))
    assert found == reference(prompt, table(), random.Random(3))
    assert len(found) == MAX_NEW_TOKENS
    assert len(set(found[-1])) > 5, "repetition would prove little"
    assert found != list(model.continuations(prompt, random.Random(4)))


def test_an_empty_text_is_continued_from_the_first_token(bundle: Bundle, session: Session) -> None:
    found = next(language_model(bundle, session).continuations("", random.Random(0)))
    token = sampled(table()[END % ROWS, :SIZE], random.Random(0))
    assert found == TOKENIZER.decode([token])


@pytest.mark.parametrize("ending", ["end", "newline"])
def test_the_model_ends_its_text_itself(tmp_path: Path, ending: str) -> None:
    logits = table(**{ending: 7.5})  # some five in a hundred tokens
    bundle = bundle_of(tmp_path, logits)
    with open_session(bundle, "prompt_expander", options=ONE_THREAD) as session:
        model = language_model(bundle, session)
        found = [list(model.continuations("a cat,", random.Random(seed))) for seed in range(8)]
    assert found == [reference("a cat,", logits, random.Random(seed)) for seed in range(8)]
    assert any(0 < len(texts) < MAX_NEW_TOKENS for texts in found)
    assert not any("\n" in text or "<end>" in text for texts in found for text in texts)


def test_a_prompt_far_longer_than_the_models_window_is_cut_at_its_start(
    bundle: Bundle, session: Session
) -> None:
    found = list(language_model(bundle, session).continuations("x" * 3000, random.Random(1)))
    assert found == reference("x" * 256, table(), random.Random(1))


def test_sampling_follows_the_softmax_of_the_likeliest() -> None:
    logits = np.random.default_rng(0).normal(0, 1.5, 200).astype(np.float32)
    draw = random.Random(0)
    counts = np.bincount([sampled(logits, draw) for _ in range(20_000)], minlength=200)
    kept = np.argsort(-logits)[:TOP_K]
    assert counts.sum() == counts[kept].sum()
    wanted = np.exp(logits[kept]) / np.exp(logits[kept]).sum()
    assert np.abs(counts[kept] / 20_000 - wanted).max() < 0.01
    assert sampled(np.array([0, 99, 1], np.float16), draw) == 1


def test_a_model_of_open_widths_is_refused(bundle: Bundle) -> None:
    with open_session(Bundle.open(DEMO_BUNDLE), "text_encoder", "null") as session:
        contract = bundle.contract("prompt_expander")
        session.inputs = {
            name: type(session.inputs["inputs_embeds"])(
                np.dtype(np.float32), ("open",) * len(tensor.shape)
            )
            for name, tensor in contract.inputs.items()
        }
        with pytest.raises(ContractViolation, match="layers, heads or width open"):
            language_model(bundle, session)
