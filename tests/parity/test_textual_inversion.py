"""Learned tokens condition, and paint, as diffusers' `load_textual_inversion` makes them.

Files of both key layouts, read by us and by safetensors' own reader for diffusers, which takes one
encoder's tensor at a time: https://huggingface.co/docs/diffusers, "Textual inversion", SDXL.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conditioning import assert_same_conditioning
from diffusers import StableDiffusionXLInpaintPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import diffusers_picture, largest_difference, our_picture, photo, soft_mask
from safetensors.numpy import save_file
from safetensors.torch import load_file

from lightfill.engine.pipeline import Inpainter
from lightfill.engine.text import TextConditioner
from lightfill.engine.textual_inversion import (
    Embedding,
    TextualInversion,
    load_textual_inversion,
)

LAYOUTS = {
    "diffusers": ("clip_l", "clip_g"),
    "cog-sdxl": ("text_encoders_0", "text_encoders_1"),
}
TOWERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
LoadReference = Callable[[], StableDiffusionXLInpaintPipeline]


def write_vectors(
    path: Path,
    pipeline: StableDiffusionXLInpaintPipeline,
    rows: int,
    *,
    layout: str = "diffusers",
    dtype: type = np.float32,
    seed: int = 3,
) -> Path:
    """Random vectors, as large as trained ones, as wide as each of the pipeline's encoders."""
    random = np.random.default_rng(seed)
    learned = {}
    for key, tower in zip(LAYOUTS[layout], TOWERS, strict=True):
        width = getattr(pipeline, tower).get_input_embeddings().weight.shape[1]
        learned[key] = random.normal(0, 0.3, (rows, width)).astype(dtype)
    save_file(learned, path)
    return path


def teach(
    pipeline: StableDiffusionXLInpaintPipeline, path: Path, tokens: Sequence[str], layout: str
) -> None:
    """As the documentation of diffusers loads an SDXL file: each encoder its own tensor."""
    tensors = load_file(path)
    for key, (tower, tokenizer) in zip(LAYOUTS[layout], TOWERS.items(), strict=True):
        pipeline.load_textual_inversion(
            tensors[key],
            token=list(tokens) if len(tokens) > 1 else tokens[0],
            text_encoder=getattr(pipeline, tower),
            tokenizer=getattr(pipeline, tokenizer),
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("tokens", "rows"),
    [(("<s0>", "<s1>"), 2), (("<s0>",), 3), (("sks-cat",), 1), (("<S0>", "My Cat", "<s2>"), 3)],
    ids=["a vector a token", "three vectors for one token", "one vector", "capitals and a space"],
)
def test_a_file_conditions_as_in_diffusers(
    tokens: tuple[str, ...],
    rows: int,
    layout: str,
    dtype: type,
    load_reference: LoadReference,
    conditioner: TextConditioner,
    tmp_path: Path,
) -> None:
    pipeline = load_reference()
    path = write_vectors(
        tmp_path / "learned.safetensors", pipeline, rows, layout=layout, dtype=dtype
    )
    teach(pipeline, path, tokens, layout)
    inversion = load_textual_inversion(path, tokens)

    joined = "".join(tokens)
    capitals = f"A {joined.upper()} and a {joined.lower()}"
    for prompt in (
        f"a photo of {joined}",
        f"{tokens[0]}, on grass!",
        f"{tokens[-1]} next to {tokens[0]} and {joined}",
        # diffusers takes a token of several vectors in other capitals for its first vector alone
        capitals if rows == len(tokens) else f"a {joined}",
        "word " * 73 + joined,  # the window ends inside the new tokens
        "no new token here",
    ):
        found = conditioner.encode(prompt, [inversion])
        assert_same_conditioning(found, pipeline, prompt)
        if joined in prompt and "word" not in prompt:
            plain = conditioner.encode(prompt).hidden_states
            assert np.abs(found.hidden_states - plain).max() > 0.01
    spelled = conditioner.encode(capitals, [inversion])
    written = conditioner.encode(f"A {joined} and a {joined}", [inversion])
    assert (spelled.hidden_states == written.hidden_states).all(), "capitals mean nothing to CLIP"


@dataclass(frozen=True)
class Taught:
    """diffusers' pipeline and our inversions after the same three files."""

    pipeline: StableDiffusionXLInpaintPipeline
    embeddings: tuple[Embedding, ...]
    inversions: tuple[TextualInversion, ...]


FILES = (
    (("<s0>", "<s1>"), 2, "diffusers"),
    (("<pet>",), 4, "cog-sdxl"),
    (("style-x",), 1, "diffusers"),
)


@pytest.fixture(scope="module")
def taught(load_reference: LoadReference, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    pipeline, folder = load_reference(), tmp_path_factory.mktemp("learned")
    embeddings = []
    for number, (tokens, rows, layout) in enumerate(FILES):
        path = folder / f"{number}.safetensors"
        write_vectors(path, pipeline, rows, layout=layout, seed=number)
        teach(pipeline, path, tokens, layout)
        embeddings.append(Embedding(path, tokens))
    loaded = [load_textual_inversion(entry.path, entry.tokens) for entry in embeddings]
    return Taught(pipeline, tuple(embeddings), tuple(loaded))


pieces = st.sampled_from(
    ["<s0>", "<s1>", "<pet>", "style-x", "a", "photo of", "cat", "cats", "!", ",", "'s", "9", "<"]
)
prompts = st.builds(
    lambda words, gaps: "".join(w + g for w, g in zip(words, gaps, strict=False)),
    st.lists(pieces, max_size=40),
    st.lists(st.sampled_from([" ", "", ", "]), min_size=40, max_size=40),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(prompts)
def test_any_mixture_of_words_and_learned_tokens_conditions_as_in_diffusers(
    taught: Taught, conditioner: TextConditioner, prompt: str
) -> None:
    assert_same_conditioning(conditioner.encode(prompt, taught.inversions), taught.pipeline, prompt)


@pytest.mark.parametrize("prompt", ["a <pet> on the grass, style-x", "<s0><s1> and <pet>"])
def test_the_picture_is_diffusers_picture(
    taught: Taught, inpainter: Inpainter, prompt: str
) -> None:
    size, steps = (64, 64), 4
    ours = our_picture(inpainter, size, steps=steps, prompt=prompt, embeddings=taught.embeddings)
    theirs = diffusers_picture(
        taught.pipeline, size, steps=steps, strength=1.0, image=photo(), mask=soft_mask(),
        prompt=prompt,
    )  # fmt: skip
    assert largest_difference(ours, theirs) <= 1
    untaught = our_picture(inpainter, size, steps=steps, prompt=prompt)
    assert largest_difference(untaught, theirs) > 1, "the learned tokens changed nothing"


def test_bytes_mean_the_same_as_their_file(taught: Taught) -> None:
    for entry, from_file in zip(taught.embeddings, taught.inversions, strict=True):
        again = load_textual_inversion(Path(str(entry.path)).read_bytes(), entry.tokens)
        assert again.digest == from_file.digest
