"""Licence texts and a notice in every bundle: weights have licences of their own."""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..engine.atomic_write import write_atomically
from ..engine.manifest import Licence
from .base import licence_files
from .part import Part
from .repositories import Repository
from .request import VAE_FP16_FIX

_MIT = Path(__file__).parent / "sdxl" / "LICENSE-sdxl-vae-fp16-fix.txt"
_KNOWN = {VAE_FP16_FIX.partition("@")[0]: _MIT}
"""Repositories that declare a licence on their page without a file of it."""

_NOTICE = """\
# Notice

This bundle was made by lightfill: the weights below were converted to ONNX graphs and rounded to
the precision they are stored in: modified files in the sense of their licences. The texts
beside this notice are those of their sources; use restrictions in them (OpenRAIL++-M, Attachment A)
bind whoever uses, shares or hosts these files.

| component | from | revision | changes |
|---|---|---|---|
{rows}
"""

logger = logging.getLogger(__name__)


def write_licences(
    root: Path, licensed: Iterable[Repository], known: Mapping[str, Path] | None = None
) -> list[Licence]:
    """Copy every source's texts into root/licences; returns the entries of those that are new.

    known: by their names, the texts that a bundle has already; they stay as they are.
    """
    placed = dict(known or {})
    written = []
    for files in licensed:
        name = files.name
        texts = [files.fetch(file) for file in licence_files(files)]
        licence = any(path.name.upper().startswith(("LICEN", "PROVENANCE")) for path in texts)
        if not licence and name in _KNOWN:
            texts.append(_KNOWN[name])
        elif not licence:
            logger.warning("%s carries no licence text; add one before sharing the bundle", name)
        for path in texts:
            content = path.read_bytes()
            file = _place(name, path.name, content, placed)
            if file not in placed:
                write_atomically(root / file, content)
                placed[file] = root / file
                written.append(Licence(file=file, covers=f"weights and files from {name}"))
    return written


def _place(source: str, name: str, content: bytes, placed: Mapping[str, Path]) -> str:
    """Where a text goes: numbered, if another text has the place of a source of the same name."""
    folder = re.sub(r"[^\w.-]+", "--", source).lstrip(".") or "source"
    for suffix in ("", *(f"-{number}" for number in range(2, len(placed) + 3))):
        file = f"licences/{folder}{suffix}/{name}"
        if file not in placed or placed[file].read_bytes() == content:
            break
    return file


def write_notice(root: Path, parts: Iterable[Part], name: str) -> Licence:
    """Write root/licences/NAME: what was converted from what, and how it was changed."""
    rows = []
    for part in parts:
        loras = ", ".join(f"LoRA {lora.file} x {lora.scale:g}" for lora in part.loras)
        changes = f"converted to ONNX{', with ' + loras if loras else ''}"
        cells = (part.name, part.source.checkpoint, part.source.revision or "-", changes)
        rows.append(f"| {' | '.join(_cell(text) for text in cells)} |")
    text = _NOTICE.format(rows="\n".join(rows))
    write_atomically(root / "licences" / name, text.encode())
    return Licence(file=f"licences/{name}", covers="what was converted, and from where")


def _cell(text: str) -> str:
    """One line, without what would end a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")
