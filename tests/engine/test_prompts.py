"""Prompt expansion: the prompt's own words first, what is added fits, and one prompt one text."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_models import TOKENIZER, bundle_of, table

from lightfill import Inpainter
from lightfill.engine import prompts
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import BundleCorrupt, ComponentMissing, InvalidInput
from lightfill.engine.language_model import LanguageModel
from lightfill.engine.prompts import STYLES, PromptExpander, with_style
from lightfill.engine.sessions import Session, SessionOptions, open_session
from lightfill.engine.text import TextConditioner
from lightfill.engine.textual_inversion import TextualInversion

ONE_THREAD = SessionOptions(threads=1)
PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
MASK = np.full((64, 64), 255, np.uint8)


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


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, private_cache: None) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("expander"), table())


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> Iterator[Session]:
    with open_session(bundle, "prompt_expander", options=ONE_THREAD) as opened_session:
        yield opened_session


def language_model(bundle: Bundle, session: Session) -> LanguageModel:
    return LanguageModel(session, TOKENIZER, bundle.manifest.tokenizers["prompt_expander"])


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
    good = bundle_of(tmp_path, table())
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
