"""Tokenizer files for a bundle: `tokenizers` JSON and the ids a text is framed with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer, GPT2Tokenizer

from ..engine.bundle import DEMO_BUNDLE, Bundle
from ..engine.errors import ExportError
from .repositories import Repository

_FOLDERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}


@dataclass(frozen=True)
class TokenizerFile:
    """The content of a tokenizer.json without special tokens, and what the manifest says of it."""

    text: str
    special_tokens: list[str]
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int


def clip_tokenizers(files: Repository, rows: Mapping[str, Any]) -> dict[str, TokenizerFile]:
    """Both tokenizers of a diffusers folder; `rows` are the sizes of their encoders' tables."""
    loaded = {}
    for role, folder in _FOLDERS.items():
        tokenizer = _load(CLIPTokenizer, files, folder)
        # transformers makes an empty tokenizer where there are no files
        if len(tokenizer) != rows[role]:
            raise ExportError(
                f"{files.name}/{folder} knows {len(tokenizer)} tokens, {role} {rows[role]}; "
                "copy the checkpoint's tokenizer files again"
            )
        loaded[role] = _described(tokenizer)
    return loaded


def embedded_tokenizers() -> dict[str, TokenizerFile]:
    """CLIP's, which every SDXL checkpoint uses, as the embedded bundle ships them."""
    bundle = Bundle.open(DEMO_BUNDLE)
    return {
        role: TokenizerFile(
            text=(bundle.root / entry.file).read_text(encoding="utf-8"),
            special_tokens=list(entry.special_tokens),
            bos_token_id=entry.bos_token_id,
            eos_token_id=entry.eos_token_id,
            pad_token_id=entry.pad_token_id,
        )
        for role, entry in bundle.manifest.tokenizers.items()
    }


def gpt2_tokenizer(files: Repository, rows: int) -> TokenizerFile:
    """The prompt expander's; a GPT-2 has one special token for begin, end and padding."""
    present = files.files()
    # transformers makes a tokenizer of special tokens only where there are no files
    if not ("tokenizer.json" in present or {"vocab.json", "merges.txt"} <= present):
        raise ExportError(
            f"{files.name} has no tokenizer; copy tokenizer.json, or vocab.json and merges.txt, "
            "beside its weights"
        )
    tokenizer = _load(GPT2Tokenizer, files, "")
    if not 0 < len(tokenizer) <= rows:
        raise ExportError(
            f"{files.name} knows {len(tokenizer)} tokens, its model {rows}; copy its tokenizer "
            "files (tokenizer.json, or vocab.json and merges.txt) again"
        )
    return _described(tokenizer)


def _load(kind: type[Any], files: Repository, folder: str) -> Any:
    prefix = f"{folder}/" if folder else ""
    names = [
        name
        for name in files.files()
        if name.startswith(prefix)
        and "/" not in name.removeprefix(prefix)
        and name.endswith((".json", ".txt"))
        and not name.endswith(".index.json")
    ]
    if not names:
        raise ExportError(
            f"{files.name} has no {folder or 'tokenizer files'}; copy the checkpoint again"
        )
    directories: set[Path] = {files.fetch(name).parent for name in names}
    try:
        return kind.from_pretrained(directories.pop(), local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exceptions for damaged files
        raise ExportError(
            f"{files.name}/{folder} cannot be loaded ({error}); copy the checkpoint again"
        ) from error


def _described(tokenizer: Any) -> TokenizerFile:
    """The `tokenizers` JSON without padding, truncation and special tokens: the engine's business.

    SDXL's two differ in their special tokens only ("!" pads the second), so they share one file.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    content = json.loads(backend.to_str())
    special = [token["content"] for token in content["added_tokens"] if token["special"]]
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    eos = tokenizer.eos_token_id
    return TokenizerFile(
        text=json.dumps(content, ensure_ascii=False),
        special_tokens=special,
        bos_token_id=tokenizer.bos_token_id if tokenizer.bos_token_id is not None else eos,
        eos_token_id=eos,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos,
    )
