"""Learned token vectors: both key layouts, several rows a token, and every wrong file."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lightfill.engine.errors import FileDownloadError, InvalidInput
from lightfill.engine.pipeline import Inpainter
from lightfill.engine.result import Result
from lightfill.engine.textual_inversion import Embedding, load_textual_inversion

WIDTHS = {"clip_l": 32, "clip_g": 48}
PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
MASK = np.zeros((64, 64), np.uint8)
MASK[16:48, 16:48] = 255
PROMPT = "a ball like <s0><s1>"


def vectors(rows: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        key: generator.standard_normal((rows, width)).astype(np.float32)
        for key, width in WIDTHS.items()
    }


def saved(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    save_file(tensors, path)
    return path


@pytest.fixture
def inversion(tmp_path: Path) -> Path:
    return saved(tmp_path / "learned.safetensors", vectors())


def paint(inpainter: Inpainter, prompt: str, *embeddings: Any) -> np.ndarray:
    result: Result = inpainter(
        PHOTO, MASK, prompt, image_size=(64, 64), steps=2, strength=1.0, seed=3,
        embeddings=embeddings,
    )  # fmt: skip
    return np.asarray(result.image)


def test_vectors_change_the_picture_only_where_their_tokens_are_used(
    demo_inpainter: Inpainter, inversion: Path
) -> None:
    plain = paint(demo_inpainter, PROMPT)
    learned = paint(demo_inpainter, PROMPT, Embedding(inversion))
    assert (learned != plain).any()
    unused = paint(demo_inpainter, "a ball", Embedding(inversion))
    assert (unused == paint(demo_inpainter, "a ball")).all()
    assert (paint(demo_inpainter, PROMPT) == plain).all(), "nothing is left behind"


def test_other_vectors_give_another_picture(
    demo_inpainter: Inpainter, inversion: Path, tmp_path: Path
) -> None:
    other = saved(tmp_path / "other.safetensors", vectors(seed=1))
    first = paint(demo_inpainter, PROMPT, Embedding(inversion))
    assert (paint(demo_inpainter, PROMPT, Embedding(other)) != first).any()
    save_file(vectors(seed=1), inversion)  # the cache goes by content, not by path
    assert (paint(demo_inpainter, PROMPT, Embedding(inversion)) != first).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_both_key_layouts_and_spellings_mean_the_same(
    demo_inpainter: Inpainter, tmp_path: Path, dtype: type
) -> None:
    tensors = {key: array.astype(dtype) for key, array in vectors().items()}
    diffusers = saved(tmp_path / "a.safetensors", tensors)
    renamed = {"text_encoders_0": tensors["clip_l"], "text_encoders_1": tensors["clip_g"]}
    cog = saved(tmp_path / "b.safetensors", renamed)
    pictures = [
        paint(demo_inpainter, PROMPT, Embedding(diffusers)),
        paint(demo_inpainter, PROMPT, Embedding(cog, ("<s0>", "<s1>"))),
        paint(demo_inpainter, PROMPT, {"path": str(cog), "tokens": ["<s0>", "<s1>"]}),
        paint(demo_inpainter, PROMPT, {"path": diffusers}),
    ]
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_one_token_takes_all_rows(demo_inpainter: Inpainter, inversion: Path) -> None:
    two = paint(demo_inpainter, "a ball like <s0><s1>", Embedding(inversion))
    one = paint(demo_inpainter, "a ball like <dog>", Embedding(inversion, ["<dog>"]))
    assert (one == two).all()


def test_two_files_serve_one_prompt(
    demo_inpainter: Inpainter, inversion: Path, tmp_path: Path
) -> None:
    other = saved(tmp_path / "other.safetensors", vectors(rows=1, seed=1))
    both = [Embedding(inversion), Embedding(other, ["<cat>"])]
    first = paint(demo_inpainter, "<s0><s1> and <cat>", *both)
    assert (first != paint(demo_inpainter, "<s0><s1> and <cat>", both[0])).any()
    assert (first == paint(demo_inpainter, "<s0><s1> and <cat>", *reversed(both))).all()


def test_rows_are_split_among_tokens(inversion: Path) -> None:
    loaded = load_textual_inversion(inversion)
    assert loaded.tokens == ("<s0>", "<s1>")
    for tower, key in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        rows = loaded.vectors[tower]
        assert [array.shape for array in rows] == [(1, WIDTHS[key])] * 2
        assert (np.concatenate(rows) == vectors()[key]).all()
    assert loaded.digest != load_textual_inversion(inversion, ["a", "b"]).digest


def bfloat16_file(path: Path) -> None:
    """safetensors' numpy reader has no such type."""
    header = {"clip_l": {"dtype": "BF16", "shape": [1, 32], "data_offsets": [0, 64]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))


def pickled_file(path: Path) -> None:
    path.write_bytes(b"\x80\x04cposix\nsystem\n(S'true'\ntR.")


def tensors_file(tensors: dict[str, np.ndarray]) -> Callable[[Path], None]:
    return lambda path: save_file(tensors, path)


WRONG_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as"),
    "text": (lambda path: path.write_text("not tensors at all"), "cannot be read as"),
    "pickle": (pickled_file, "cannot be read as"),
    "bfloat16": (bfloat16_file, "cannot be read as"),
    "no second encoder": (tensors_file({"clip_l": np.ones((2, 32))}), "text_encoders_1"),
    "first version": (tensors_file({"emb_params": np.ones((2, 32))}), "trained for SDXL"),
    "not finite": (tensors_file(vectors() | {"clip_g": np.full((2, 48), np.nan)}), "no finite"),
    "three dimensions": (tensors_file(vectors() | {"clip_l": np.ones((2, 2, 32))}), "matrix"),
    "too few rows": (tensors_file(vectors(rows=1)), "1 vectors for 2 tokens"),
    "rows differ": (tensors_file(vectors() | {"clip_g": np.ones((3, 48))}), "3 vectors for 2"),
    "wrong width": (tensors_file(vectors() | {"clip_l": np.ones((2, 768))}), "width 768"),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_wrong_file_is_refused(demo_inpainter: Inpainter, tmp_path: Path, kind: str) -> None:
    write, words = WRONG_FILES[kind]
    path = tmp_path / "wrong.safetensors"
    write(path)
    with pytest.raises(InvalidInput) as caught:
        paint(demo_inpainter, PROMPT, Embedding(path))
    assert caught.value.field == "embeddings"
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["nowhere.safetensors", ".", "a\0b", None, 7])
def test_path_that_cannot_be_read_is_refused(demo_inpainter: Inpainter, path: Any) -> None:
    with pytest.raises(
        FileDownloadError, match=r"^embeddings: .* cannot be read: .*check the path"
    ):
        paint(demo_inpainter, PROMPT, {"path": path})


def test_huge_file_is_refused_unread(demo_inpainter: Inpainter, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(InvalidInput, match="larger than 64 MB"):
        paint(demo_inpainter, PROMPT, Embedding(path))


def test_huge_bytes_and_too_many_tokens_are_refused(inversion: Path) -> None:
    with pytest.raises(InvalidInput, match="the file is larger than 64 MB: no embedding"):
        load_textual_inversion(bytes(65 << 20))
    listing = b"{" + b" " * (2 << 20) + b"}"
    with pytest.raises(InvalidInput, match="lists too many tensors: no embedding; check it"):
        load_textual_inversion(struct.pack("<Q", len(listing)) + listing)
    for tokens in ([f"<{number}>" for number in range(101)], ["<s0>", "s" * 101]):
        with pytest.raises(InvalidInput, match="at most 100 tokens of 100 characters; pass those"):
            load_textual_inversion(inversion, tokens)


@pytest.mark.parametrize("tokens", [[], [""], [" "], ["<a>", "<a>"], "<s0>", [1, 2], None, 5])
def test_unusable_tokens_are_refused(
    demo_inpainter: Inpainter, inversion: Path, tokens: Any
) -> None:
    with pytest.raises(InvalidInput, match=r"^embeddings: tokens .* must "):
        paint(demo_inpainter, PROMPT, {"path": inversion, "tokens": tokens})


@pytest.mark.parametrize("tokens", [["ball</w>", "<s1>"], ["<|endoftext|>", "<s1>"]])
def test_words_of_the_vocabulary_are_refused(
    demo_inpainter: Inpainter, inversion: Path, tokens: list[str]
) -> None:
    with pytest.raises(InvalidInput, match="in the vocabulary already; choose another"):
        paint(demo_inpainter, PROMPT, Embedding(inversion, tokens))


@pytest.mark.parametrize("given", ["file.safetensors", {}, {"path": "a", "scale": 1}, None, 3])
def test_other_things_than_embeddings_are_refused(demo_inpainter: Inpainter, given: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^embeddings: .*; pass "):
        paint(demo_inpainter, PROMPT, given)
