"""A checkpoint as older libraries want it: CLIP's vocabulary in two files of its own."""

import json
import shutil
from pathlib import Path


def with_vocabulary_files(checkpoint: Path, kept: Path) -> Path:
    """`checkpoint`, or, if its tokenizers are one JSON file each, a copy in `kept` that links it.

    transformers before 5 reads vocab.json and merges.txt; both are in tokenizer.json.
    """
    tokenizers = [checkpoint / name for name in ("tokenizer", "tokenizer_2")]
    if all((each / "vocab.json").exists() for each in tokenizers):
        return checkpoint
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for entry in checkpoint.iterdir():
        if entry not in tokenizers:
            (kept / entry.name).symlink_to(entry.resolve())
    for tokenizer in tokenizers:
        shutil.copytree(tokenizer, kept / tokenizer.name)
        model = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        pairs = (each if isinstance(each, str) else " ".join(each) for each in model["merges"])
        target = kept / tokenizer.name
        (target / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
        (target / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]), encoding="utf-8")
    return kept
