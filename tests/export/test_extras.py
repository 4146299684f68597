"""A safety checker that flags and a prompt expander that continues, in a bundle or added to it."""

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_extras
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tiny_exports import OPTIONS, digests, export
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2Tokenizer

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import ExportError
from lightfill.engine.language_model import LanguageModel, sampled
from lightfill.engine.pipeline import Inpainter
from lightfill.engine.sessions import open_session
from lightfill.export.bundle_writer import export_bundle
from lightfill.export.extras import extra_parts
from lightfill.export.request import ExportRequest

torch.set_num_threads(1)

PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
MASK = np.full((64, 64), 255, np.uint8)
ALWAYS, NEVER = -2.0, 2.0
"""Thresholds that every cosine is above, and none."""
NEW_TOKENS = 20


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("extras")
    return {
        "safety_checker": tiny_extras.save_safety_checker(directory / "checker", threshold=ALWAYS),
        "prompt_expander": tiny_extras.save_prompt_expander(directory / "expander"),
    }


def add(bundle: Path, **extras: Path) -> None:
    """`lightfill export --out BUNDLE --safety-checker ...`: no base, nothing from the hub."""
    kept = {name: OPTIONS[name] for name in ("steps", "arithmetics")}
    export_bundle(ExportRequest(out=bundle, **kept, **extras))


@pytest.fixture(scope="module")
def extended(
    tiny_bundle: Path, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Both added, one after the other, and verified."""
    bundle = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("extended") / "bundle")
    for name, source in sources.items():
        add(bundle, **{name: source})
    return bundle


@pytest.mark.slow  # needs the traces of the random bundle, which take a minute
class TestAddedToABundle:
    def test_what_was_there_stays_and_every_new_file_is_listed(
        self, extended: Path, tiny_bundle: Path, sources: dict[str, Path]
    ) -> None:
        before = Bundle.open(tiny_bundle).manifest
        after = Bundle.open(extended, check=True).manifest
        assert {path: after.files[path] for path in before.files} == before.files
        assert after.components.keys() - before.components.keys() == sources.keys()
        assert digests(extended).keys() == {*after.files, "lightfill.json"}
        for name, source in sources.items():
            part = after.components[name]
            assert (part.role, part.source and part.source.checkpoint) == (name, source.name)
            assert part.verification
            assert all(each.passed for each in part.verification)
            texts = {licence.file for licence in after.licences}
            assert {f"licences/{source.name}/LICENSE", f"licences/NOTICE-{name}.md"} <= texts

    def test_twice_changes_nothing(self, extended: Path, sources: dict[str, Path]) -> None:
        before = digests(extended)
        add(extended, **sources)
        assert digests(extended) == before

    def test_another_checker_is_refused(self, extended: Path, tmp_path: Path) -> None:
        other = tiny_extras.save_safety_checker(tmp_path / "checker", threshold=NEVER)
        with pytest.raises(ExportError, match="has another safety_checker"):
            add(extended, safety_checker=other)

    def test_a_bundle_that_has_them_from_the_start_has_the_same(
        self, extended: Path, sources: dict[str, Path], tmp_path: Path
    ) -> None:
        made = export(tmp_path / "bundle", **sources)
        assert made.keys() >= sources.keys()
        found, wanted = digests(tmp_path / "bundle"), digests(extended)
        different = {path for path in found.keys() | wanted if found.get(path) != wanted.get(path)}
        notices = {f"licences/NOTICE{suffix}.md" for suffix in ("", *(f"-{s}" for s in sources))}
        assert different == {"lightfill.json", *notices}


@pytest.mark.slow  # needs the traces of the random bundle, which take a minute
@pytest.mark.parametrize("threshold", [ALWAYS, NEVER])
def test_the_checker_decides_by_its_thresholds(
    threshold: float, extended: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = extended
    if threshold == NEVER:
        bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
        checker = tiny_extras.save_safety_checker(tmp_path / "checker", threshold=NEVER)
        add(bundle, safety_checker=checker)
    with Inpainter.open(bundle, threads=1) as inpainter:
        result = inpainter(
            PHOTO, MASK, "a ball", image_size="source", seed=1, enable_safety_checker=True
        )
        assert result.safety_checked
        assert result.has_nsfw_concepts == (threshold == ALWAYS,)
        assert np.asarray(result.image).any() == (threshold == NEVER)
        skipped = inpainter(
            PHOTO, MASK, "a ball", image_size="source", seed=1, enable_safety_checker=False
        )
        assert np.asarray(skipped.image).any()


@pytest.mark.slow  # needs the traces of the random bundle, which take a minute
class TestThePromptExpander:
    PROMPTS = ("a cat", "the path to the cloth", "x")

    def test_its_tokenizer_is_transformers(self, extended: Path, sources: dict[str, Path]) -> None:
        bundle = Bundle.open(extended)
        entry = bundle.manifest.tokenizers["prompt_expander"]
        assert entry.file == "tokenizer/prompt_expander.json"
        theirs = GPT2Tokenizer.from_pretrained(sources["prompt_expander"])
        end = len(theirs) - 1
        assert (entry.bos_token_id, entry.eos_token_id, entry.pad_token_id) == (end, end, end)
        assert entry.special_tokens == [tiny_extras.END]
        ours = Tokenizer.from_file(str(bundle.root / entry.file))
        for prompt in self.PROMPTS:
            assert ours.encode(prompt).ids == theirs(prompt).input_ids
            assert ours.decode(ours.encode(prompt).ids) == prompt

    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_it_continues_as_transformers_does(
        self, prompt: str, extended: Path, sources: dict[str, Path]
    ) -> None:
        tokenizer = GPT2Tokenizer.from_pretrained(sources["prompt_expander"])
        tokens = tokenizer(prompt, return_tensors="pt").input_ids
        wanted = tiny_extras.prompt_expander().float().generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        assert len(wanted[0, tokens.shape[1] :].unique()) > 5, "repetition would prove little"
        assert np.array_equal(greedy(Bundle.open(extended), tokens.numpy()), wanted.numpy())

    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_expansion_samples_what_transformers_would(
        self, prompt: str, extended: Path, sources: dict[str, Path]
    ) -> None:
        bundle = Bundle.open(extended)
        tokenizer = GPT2Tokenizer.from_pretrained(sources["prompt_expander"])
        model = tiny_extras.prompt_expander().float()
        entry = bundle.manifest.tokenizers["prompt_expander"]
        ours = Tokenizer.from_file(str(bundle.root / entry.file))
        ours.add_special_tokens(entry.special_tokens)
        sampled_characters = set()
        with open_session(bundle, "prompt_expander") as session:
            expander = LanguageModel(session, ours, entry, NEW_TOKENS)
            for seed in range(5):
                tokens, texts, draw = tokenizer(prompt).input_ids, [], random.Random(seed)
                for _ in range(NEW_TOKENS):
                    logits = model(torch.tensor([tokens])).logits[0, -1]
                    tokens.append(sampled(logits.numpy(), draw))
                    if tokens[-1] == tokenizer.eos_token_id:
                        break
                    texts.append(tokenizer.decode(tokens)[len(prompt) :])
                assert list(expander.continuations(prompt, random.Random(seed))) == texts
                sampled_characters.update(*texts)
        assert len(sampled_characters) > 10, "repetition would prove little"


def greedy(bundle: Bundle, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    with open_session(bundle, "prompt_expander") as session:
        past = np.zeros((2, 2, 1, 4, 0, 8), np.float32)  # layers, both, batch, heads, none, width
        feed = every = tokens
        for _ in range(NEW_TOKENS):
            found = session.run({"input_ids": feed, "past": past})
            feed, past = found["logits"].argmax(-1)[:, None], found["present"]
            every = np.concatenate([every, feed], axis=1)
    return every


# --- folders as they are published, and others ----------------------------------------------------


def parts_of(**options: Path) -> Any:
    (part,) = extra_parts(ExportRequest(out=Path("unused"), **options), [])
    return part


def old_checker(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As transformers 4 named them: the tower one level deeper, and the buffer it saved."""
    deeper = {k.replace("vision_model.", "vision_model.vision_model."): tensors[k] for k in tensors}
    return deeper | {"vision_model.vision_model.embeddings.position_ids": torch.arange(17)[None]}


def old_expander(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As transformers 4 saved it: both names of the embedding, and a causal mask."""
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
    tied = {"lm_head.weight": tensors["transformer.wte.weight"]}
    return {**tensors, **tied, "transformer.h.0.attn.bias": mask}


@pytest.mark.parametrize("name", ["safety_checker", "prompt_expander"])
def test_a_pickle_with_old_names_has_the_same_weights(
    name: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(sources[name], tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    renamed = {"safety_checker": old_checker, "prompt_expander": old_expander}[name](tensors)
    torch.save(renamed, folder / "pytorch_model.bin")
    found, wanted = parts_of(**{name: folder}), parts_of(**{name: sources[name]})
    assert found.role == wanted.role == name
    assert found.tokenizer == wanted.tokenizer
    for key in wanted.architecture().shapes:
        assert torch.equal(found.weights.read(key), wanted.weights.read(key)), key


def edit(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


WRONG: dict[str, tuple[str, Any, str]] = {
    "another model": (
        "safety_checker",
        lambda folder: edit(folder / "config.json", model_type="vit"),
        "makes no safety_checker .*not a CLIP safety checker's",
    ),
    "no gpt2": (
        "prompt_expander",
        lambda folder: edit(folder / "config.json", model_type="opt"),
        "makes no prompt_expander .*type opt",
    ),
    "another width": (
        "safety_checker",
        lambda folder: edit(folder / "config.json", projection_dim=24),
        r"concept_embeds has shape \(17, 16\), .* safety_checker wants \(17, 24\)",
    ),
    "no weights": (
        "prompt_expander",
        lambda folder: (folder / "model.safetensors").unlink(),
        "has no weights named",
    ),
    "no configuration": (
        "safety_checker",
        lambda folder: (folder / "config.json").unlink(),
        "has no file 'config.json'",
    ),
    "a larger tokenizer": (
        "prompt_expander",
        lambda folder: edit(folder / "config.json", vocab_size=90),
        "knows 97 tokens, its model 90; copy its tokenizer files",
    ),
    "no tokenizer": (
        "prompt_expander",
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "merges.txt")],
        "has no tokenizer; copy tokenizer.json, or vocab.json and merges.txt",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_such_model_is_refused(
    kind: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    name, damage, message = WRONG[kind]
    folder = shutil.copytree(sources[name], tmp_path / "damaged")
    damage(folder)
    with pytest.raises(ExportError, match=message) as refused:
        parts_of(**{name: folder})
    assert "; " in str(refused.value)
    assert "\n" not in str(refused.value)
