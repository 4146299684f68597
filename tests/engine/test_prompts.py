"""Prompt expansion: the prompt's own words first, what is added fits, and one prompt one text."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundles import bundle_with, summing_language_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lightfill import Inpainter
from lightfill.engine import prompts
from lightfill.engine.bundle import DEMO_BUNDLE, Bundle
from lightfill.engine.errors import BundleCorrupt, ComponentMissing, ContractViolation, InvalidInput
from lightfill.engine.language_model import MAX_NEW_TOKENS, TOP_K, LanguageModel, sampled
from lightfill.engine.prompts import STYLES, PromptExpander, with_style
from lightfill.engine.sessions import Session, SessionOptions, open_session
from lightfill.engine.text import TextConditioner
from lightfill.engine.textual_inversion import TextualInversion

ONE_THREAD = SessionOptions(threads=1)
PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
MASK = np.full((64, 64), 255, np.uint8)
CORPUS = ("a cat on the grass, highly detailed, sharp focus, soft light", "the old house, the sea")


@pytest.fixture(scope="module")
def conditioner(private_cache: None) -> Iterator[TextConditioner]:
    bundle = Bundle.open()
    with (
        open_session(bundle, "text_encoder", options=ONE_THREAD) as encoder,
        open_session(bundle, "text_encoder_2", options=ONE_THREAD) as encoder_2,
    ):
        yield TextConditioner(bundle, encoder, encoder_2)


def always(_: str) -> bool:
    return True


# --- without a language model ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "expanded"),
    [
        (
            "a tiger on a bench",
            (
                "a tiger on a bench, highly detailed, sharp focus, natural lighting, "
                "realistic textures, high resolution photograph"
            ),
        ),
        (
            "Oil PAINTING of a tiger. ",
            (
                "Oil PAINTING of a tiger. highly detailed, intricate brushwork, rich colors, "
                "balanced composition, fine art"
            ),
        ),
        (
            "two sketches of a dog, Clean Lines,",
            (
                "two sketches of a dog, Clean Lines, highly detailed, vivid colors, "
                "careful shading, professional illustration"
            ),
        ),
        (
            "a 3D robot\n",
            (
                "a 3D robot, highly detailed, global illumination, realistic materials, "
                "soft shadows, high resolution render"
            ),
        ),
        ("", ""),
        ("  \n", "  \n"),
    ],
)
def test_style_follows_the_medium(prompt: str, expanded: str) -> None:
    assert PromptExpander(Bundle.open()).expand(prompt, always) == expanded


def test_what_is_said_already_is_not_said_again() -> None:
    once = with_style("a cat", always)
    assert with_style(once, always) == once


@pytest.mark.parametrize("words", range(50, 80))
def test_only_what_fits_into_both_windows_is_added(
    conditioner: TextConditioner, words: int
) -> None:
    prompt = "word " * (words - 1) + "word"
    expanded = PromptExpander(Bundle.open()).expand(prompt, conditioner.fits)
    added = expanded.removeprefix(prompt).lstrip(", ")
    phrases = added.split(", ") if added else []
    assert phrases == list(STYLES["photograph"][: len(phrases)])
    assert len(phrases) == 0 if words > 72 else conditioner.encode(expanded).truncated is None
    if words < 75 and len(phrases) < len(STYLES["photograph"]):
        longer = ", ".join([prompt, *STYLES["photograph"][: len(phrases) + 1]])
        assert conditioner.encode(longer).truncated, "there was room for another"


def test_room_counts_an_inversions_vectors(conditioner: TextConditioner) -> None:
    rows = {name: (np.zeros((60, width), np.float32),) for name, width in WIDTHS.items()}
    inversion = TextualInversion(("<s0>",), rows, "digest")
    assert conditioner.fits("a photo of <s0> and " + "word " * 10, [inversion])
    assert not conditioner.fits("a photo of <s0> and " + "word " * 12, [inversion])
    assert conditioner.fits("a photo of <s0> and " + "word " * 12)


WIDTHS = {"text_encoder": 32, "text_encoder_2": 48}
characters = st.characters(exclude_categories=["Cs"])


@settings(max_examples=150, deadline=None)
@given(st.text(characters, max_size=40) | st.lists(st.text(characters), max_size=30).map(" ".join))
def test_any_prompt_keeps_its_words_and_its_window(
    conditioner: TextConditioner, prompt: str
) -> None:
    expanded = PromptExpander(Bundle.open()).expand(prompt, conditioner.fits)
    if expanded != prompt:
        assert expanded.startswith(prompt.rstrip())
        assert conditioner.fits(expanded)
    if not conditioner.fits(prompt):
        assert expanded == prompt
    assert expanded == PromptExpander(Bundle.open()).expand(prompt, conditioner.fits)


# --- with one -------------------------------------------------------------------------------------


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


def opened(tmp_path: Path, logits: np.ndarray) -> Bundle:
    model = summing_language_model(logits)
    return Bundle.open(bundle_with(tmp_path / "bundle", "prompt_expander", model, TOKENIZER))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, private_cache: None) -> Bundle:
    return opened(tmp_path_factory.mktemp("expander"), table())


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
    bundle = opened(tmp_path, logits)
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


def test_expansion_is_whole_phrases_that_fit(bundle: Bundle, conditioner: TextConditioner) -> None:
    expander = PromptExpander(bundle, ONE_THREAD)
    seen = set()
    for count in range(1, 76):
        prompt = " ".join(["cat"] * count)
        expanded = expander.expand(prompt, conditioner.fits)
        assert conditioner.fits(expanded)
        assert expanded == prompt or expanded.startswith(f"{prompt}, ")
        assert expanded == expander.expand(prompt, conditioner.fits)
        assert expanded == expanded.strip()
        phrases = expanded.removeprefix(prompt).strip(", ").split(", ")
        assert len(set(phrases)) == len(phrases)
        seen.add(expanded.removeprefix(prompt))
    assert len(seen) > 30
    expander.close()
    expander.close()


def test_cut_off_words_are_left_out(bundle: Bundle, session: Session) -> None:
    model = language_model(bundle, session)
    seed = prompts.seed_of("a cat")
    whole = list(model.continuations("a cat,", random.Random(seed)))
    for limit in range(6, 60):
        room = len(f"a cat, {whole[-1]}"[:limit])
        expanded = prompts.continued("a cat", model, lambda text, room=room: len(text) <= room)
        added = expanded.removeprefix("a cat").removeprefix(", ")
        flat = " ".join(whole[-1].split())
        for phrase in filter(None, added.split(", ")):
            start = flat.index(phrase)
            after = flat[start + len(phrase) :][:1]
            assert after in {"", ",", " ", *" .;:-|"}, (phrase, after)


def test_the_model_is_kept_or_freed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_sessions = []
    real = prompts.open_session
    monkeypatch.setattr(
        prompts,
        "open_session",
        lambda *given: opened_sessions.append(real(*given)) or opened_sessions[-1],
    )
    kept, freed = PromptExpander(bundle, ONE_THREAD), PromptExpander(bundle, ONE_THREAD, keep=False)
    assert not opened_sessions, "loaded before it was needed"
    texts = {expander.expand("a cat", always) for expander in (kept, kept, freed, freed)}
    assert len(texts) == 1
    assert len(opened_sessions) == 3
    assert [session._session is None for session in opened_sessions] == [False, True, True]
    kept.close()
    assert opened_sessions[0]._session is None


def test_a_request_says_which_prompt_was_used(bundle: Bundle, demo_inpainter: Inpainter) -> None:
    options = {"image_size": "source", "steps": 1, "seed": 3}
    with Inpainter.open(bundle.root, threads=1) as inpainter:
        first = inpainter(PHOTO, MASK, "a red ball", expand_prompt=True, num_images=2, **options)
        other = inpainter(PHOTO, MASK, "a red ball", expand_prompt=True, **options | {"seed": 4})
        typed = inpainter(PHOTO, MASK, first.prompt, **options)
        plain = inpainter(PHOTO, MASK, "a red ball", **options)
    assert first.prompt.startswith("a red ball, ")
    assert len(first.prompt) > 30
    assert other.prompt == first.prompt, "one prompt has one expansion"
    assert np.array_equal(first.images[1], other.image)
    assert np.array_equal(first.image, typed.image)
    assert not np.array_equal(first.image, plain.image)
    assert plain.prompt == "a red ball"
    styled = demo_inpainter(PHOTO, MASK, "a red ball", expand_prompt=True, **options)
    assert styled.prompt == ", ".join(["a red ball", *STYLES["photograph"]])


def test_low_memory_expands_alike(bundle: Bundle) -> None:
    texts = set()
    for low_memory in (False, True):
        with Inpainter.open(bundle.root, threads=1, low_memory=low_memory) as inpainter:
            result = inpainter(
                PHOTO, MASK, "a red ball", expand_prompt=True, image_size="source", steps=1
            )
            texts.add(result.prompt)
    assert len(texts) == 1


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_other_switches_are_refused(demo_inpainter: Inpainter, value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^expand_prompt: must be True or False"):
        demo_inpainter(PHOTO, MASK, "a red ball", expand_prompt=value)


def test_a_bundle_whose_tokenizer_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    good = opened(tmp_path, table())
    path = good.root / "prompt_expander" / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(BundleCorrupt, match=r"is not a tokenizer .*export it again"):
        PromptExpander(good, ONE_THREAD).expand("a cat", always)
    manifest = json.loads((good.root / "lightfill.json").read_text())
    del manifest["tokenizers"]["prompt_expander"]
    for name in [name for name in manifest["files"] if name.endswith("/tokenizer.json")]:
        if "prompt_expander" in name:
            del manifest["files"][name]
    (good.root / "lightfill.json").write_text(json.dumps(manifest))
    with pytest.raises(ComponentMissing, match="without its tokenizer; export the bundle again"):
        PromptExpander(Bundle.open(good.root), ONE_THREAD).expand("a cat", always)


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
