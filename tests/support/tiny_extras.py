"""A tiny safety checker and a tiny prompt expander, as the folders that published ones are."""

import json
from pathlib import Path
from typing import Any

import torch
from tiny_components import CONFIGS
from torch import nn
from transformers import GPT2Tokenizer

from lightfill.export.prompt_expander import prompt_expander_model
from lightfill.export.safety_checker import safety_checker_model

END = "<|endoftext|>"


def safety_checker(*, threshold: float) -> Any:
    """One that flags pictures whose similarity to any concept is above `threshold`."""
    torch.manual_seed(3)
    model = safety_checker_model(CONFIGS["safety_checker"]).eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.concept_embeds_weights.fill_(threshold)
    model.special_care_embeds_weights.fill_(threshold)
    return model.half()


def save_safety_checker(folder: Path, *, threshold: float) -> Path:
    safety_checker(threshold=threshold).save_pretrained(folder)
    (folder / "LICENSE").write_text("checker's licence\n")
    return folder


def prompt_expander() -> Any:
    """Its numbers are large, so that it does not repeat one token for ever."""
    torch.manual_seed(7)
    end = CONFIGS["prompt_expander"]["vocab_size"] - 1
    settings = {"bos_token_id": end, "eos_token_id": end, "initializer_range": 0.5}
    # the graph does not depend on how weights began: the traced configuration is shared
    model = prompt_expander_model(CONFIGS["prompt_expander"] | settings)
    model.config.initializer_range = type(model.config)().initializer_range
    return model.eval().requires_grad_(False).half()


def save_prompt_expander(folder: Path) -> Path:
    model = prompt_expander()
    model.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer(folder).save_pretrained(folder)
    (folder / "LICENSE").write_text("expander's licence\n")
    return folder


def tokenizer(folder: Path) -> GPT2Tokenizer:
    """Printable ASCII, one merge, and the token that begins, ends and pads."""
    characters = [chr(code) for code in range(33, 127)] + ["\u0120"]  # a space, as GPT-2 writes it
    tokens = [*characters, "th", END]
    assert len(tokens) == CONFIGS["prompt_expander"]["vocab_size"]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    merges = folder / "merges.txt"
    merges.write_text("#version: 0.2\nt h\n")
    return GPT2Tokenizer(str(vocabulary), str(merges), unk_token=END, bos_token=END, eos_token=END)
