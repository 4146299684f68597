"""Exports that take seconds: synthetic weights, one graph per component, nothing verified.

Once `random_bundle` has been made, the cache has every trace they need.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lightfill.engine.errors import ExportError
from lightfill.export.bundle_writer import export_bundle
from lightfill.export.progress import Progress
from lightfill.export.request import ExportRequest

OPTIONS: Mapping[str, Any] = {
    "name": "tiny",
    "synthetic": "tiny",
    "steps": (4,),
    "arithmetics": ("float32",),
    "verify": False,
}
PARTS = ("text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder", "unet-4step")


def request(out: Path, **changes: Any) -> ExportRequest:
    return ExportRequest(out=out, **{**OPTIONS, **changes})


def export(out: Path, progress: Progress | None = None, **changes: Any) -> dict[str, bool]:
    """Whether each component was made, or was there."""
    report = export_bundle(request(out, **changes), progress)
    return {part.name: part.made for part in report.components}


@contextlib.contextmanager
def refused(message: str) -> Iterator[None]:
    """An ExportError of one sentence that ends with what to do."""
    with pytest.raises(ExportError, match=message) as raised:
        yield
    text = str(raised.value)
    assert "\n" not in text, text
    assert "; " in text, text
    assert not text.endswith("."), text


def digests(folder: Path) -> dict[str, str]:
    """Of every file there is, hidden ones and the manifest included."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def staged(out: Path) -> set[str]:
    """The components that the next export of `out` need not make, as their records say."""
    return {path.stem for path in out.with_name(f".{out.name}.partial").glob("*.json")}


class When(Progress):
    """Does something when the weights of a certain component are about to be written."""

    def __init__(self, component: str, action: Callable[[], object]) -> None:
        self._component, self._action = component, action

    def stage(self, name: str, what: str) -> None:
        if (name, what) == (self._component, "writing weights"):
            self._action()
