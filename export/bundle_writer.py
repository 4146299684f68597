"""A diffusers folder becomes a bundle: graphs, weights, tables, tokenizers, licences, manifest.

Everything is written into a sibling directory that is renamed at the end, so a killed export leaves
no bundle that looks finished.
"""

import contextlib
import gc
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from transformers import CLIPTokenizer

from ..engine.errors import ExportError
from ..engine.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Arithmetic,
    Component,
    FileEntry,
    Licence,
    Manifest,
    Source,
    StepCount,
    Tokenizer,
    Vae,
)
from .checkpoint import DiffusersFolder
from .graph import OPSET, export_graph
from .weights import SharedWeights
from .wrappers import WRAPPERS

logger = logging.getLogger(__name__)

_WEIGHTS_DTYPES = {"float16": torch.float16, "float32": torch.float32}
_TABLE_NAME = "token_embedding.npy"
_WEIGHTS_NAME = "weights.bin"
_LOCK_NAME = ".lock"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to make of a checkpoint.

    `weights` is the stored precision; float16 halves the disk and is what a float16 graph needs.
    `arithmetics` are the graphs to write: float32 for CPU runtimes, float16 for GPU ones.
    """

    name: str
    steps: Sequence[int] = (1, 2, 4, 8)
    natural_size: int = 1024
    weights: Arithmetic = "float16"
    arithmetics: Sequence[Arithmetic] = ("float32", "float16")
    source: Source | None = None

    def __post_init__(self) -> None:
        if self.weights == "float32" and "float16" in self.arithmetics:
            raise ExportError("a float16 graph needs float16 weights; export float32 graphs only")
        if not self.steps or min(self.steps) < 1:
            raise ExportError(f"steps {list(self.steps)} must be one or more counts from 1")
        if not 64 <= self.natural_size <= 2048:
            raise ExportError(f"natural size {self.natural_size} must be 64..2048 pixels")


def export_bundle(
    folder: Path,
    out: Path,
    options: ExportOptions,
    on_component: Callable[[str, Arithmetic], None] | None = None,
) -> Path:
    """Export the diffusers folder at `folder` into a new bundle directory `out`; returns `out`.

    `on_component(name, arithmetic)` is called before each graph. An existing `out` is refused.
    """
    if out.exists():
        raise ExportError(f"{out} exists; remove it or choose another --out")
    checkpoint = DiffusersFolder(folder)
    partial = out.with_name(f".{out.name}.partial")
    try:
        with _sole_writer(partial):
            try:
                manifest = _write(checkpoint, partial, options, on_component or (lambda *_: None))
                text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
                (partial / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
                (partial / _LOCK_NAME).unlink()
                partial.rename(out)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error}; choose another --out") from error
    return out


@contextlib.contextmanager
def _sole_writer(partial: Path) -> Iterator[None]:
    """An empty directory no other export writes to; what a killed one left there is removed."""
    partial.mkdir(parents=True, exist_ok=True)
    lock = FileLock(partial / _LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ExportError(
            f"another export is writing {partial}; wait for it, or choose another --out"
        ) from None
    try:
        for path in partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK_NAME:
                path.unlink()
        yield
    finally:
        lock.release()


def _write(
    checkpoint: DiffusersFolder,
    root: Path,
    options: ExportOptions,
    on_component: Callable[[str, Arithmetic], None],
) -> Manifest:
    # What can fail at once goes before what takes minutes.
    step = StepCount(component="unet", prediction=checkpoint.prediction)
    scheduler, vae = checkpoint.scheduler, Vae(scaling_factor=checkpoint.vae_scaling_factor)
    tokenizers = _write_tokenizers(checkpoint, root)
    licences = _copy_licences(checkpoint, root)
    components = {
        role: _write_component(checkpoint, root, role, options, on_component) for role in WRAPPERS
    }
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=options.name,
        natural_size=options.natural_size,
        source=options.source or Source(checkpoint=checkpoint.path.name),
        made_with={
            "opset": str(OPSET),
            **{
                name: version(name) for name in ("torch", "diffusers", "transformers", "onnxscript")
            },
        },
        components=components,
        steps=dict.fromkeys(options.steps, step),
        tokenizers=tokenizers,
        scheduler=scheduler,
        vae=vae,
        licences=licences,
        files=_file_entries(root),
    )


def _write_component(
    checkpoint: DiffusersFolder,
    root: Path,
    role: str,
    options: ExportOptions,
    on_component: Callable[[str, Arithmetic], None],
) -> Component:
    directory = root / role
    directory.mkdir()
    model = checkpoint.load(role, _WEIGHTS_DTYPES[options.weights])
    table = None
    if role.startswith("text_encoder"):
        table = f"{role}/{_TABLE_NAME}"
        weight = model.get_input_embeddings().weight  # type: ignore[operator]
        np.save(root / table, weight.numpy())
    module = WRAPPERS[role](model)
    graphs = {}
    with SharedWeights(directory / _WEIGHTS_NAME) as weights:
        for arithmetic in options.arithmetics:
            on_component(role, arithmetic)
            graph = export_graph(module, role, arithmetic)
            path = weights.save(graph, f"{arithmetic}.onnx")
            graphs[arithmetic] = path.relative_to(root).as_posix()
            del graph
    del model, module
    gc.collect()
    return Component(
        role=role,
        graphs=graphs,
        weights=f"{role}/{_WEIGHTS_NAME}",
        token_embedding=table,
    )


def _write_tokenizers(checkpoint: DiffusersFolder, root: Path) -> dict[str, Tokenizer]:
    """Both tokenizers' entries; SDXL's two share one vocabulary, which is then written once."""
    (root / "tokenizer").mkdir()
    files: dict[str, str] = {}
    entries = {}
    for role in ("text_encoder", "text_encoder_2"):
        tokenizer = checkpoint.tokenizer(role)
        text, special_tokens = _vocabulary(tokenizer)
        if text not in files:
            files[text] = f"tokenizer/{role}.json" if files else "tokenizer/tokenizer.json"
            (root / files[text]).write_text(text, encoding="utf-8")
        entries[role] = Tokenizer(
            file=files[text],
            special_tokens=special_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    return entries


def _vocabulary(tokenizer: CLIPTokenizer) -> tuple[str, list[str]]:
    """The `tokenizers` JSON both of SDXL's tokenizers share, and this one's special tokens.

    The two differ in their special tokens only ("!" pads the second). Padding and truncation are
    left out: the engine builds the window itself.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    content = json.loads(backend.to_str())
    special_tokens = [token["content"] for token in content["added_tokens"] if token["special"]]
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    return json.dumps(content, ensure_ascii=False), special_tokens


def _copy_licences(checkpoint: DiffusersFolder, root: Path) -> list[Licence]:
    if not checkpoint.licence_files:
        logger.warning("%s carries no licence text; add one before sharing", checkpoint.path)
        return []
    (root / "licences").mkdir()
    for path in checkpoint.licence_files:
        shutil.copyfile(path, root / "licences" / path.name)
    return [
        Licence(file=f"licences/{path.name}", covers="weights and tokenizers")
        for path in checkpoint.licence_files
    ]


def _file_entries(root: Path) -> dict[str, FileEntry]:
    entries = {}
    for path in sorted(
        path for path in root.rglob("*") if path.is_file() and path.name != _LOCK_NAME
    ):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entries[path.relative_to(root).as_posix()] = FileEntry(
            bytes=path.stat().st_size, sha256=digest
        )
    return entries
