"""Traced graphs, kept: a graph is decided by configuration, arithmetic and code, not by weights.

So the second Lightning step count, the next checkpoint and a resumed export skip the trace, which
is most of an export's time.
"""

import hashlib
import json
import logging
from functools import cache
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir
from platformdirs import user_cache_path

from ..engine import components
from ..engine.atomic_write import write_atomically
from ..engine.manifest import Arithmetic
from . import (
    architecture,
    attention,
    graph,
    graph_cleaning,
    prompt_expander,
    safety_checker,
    weights_file,
    wrappers,
)
from .architecture import Architecture
from .graph import OPSET, trace

EXPORTER_PACKAGES = ("torch", "diffusers", "transformers", "onnxscript", "onnx-ir")

_CODE = (
    components,
    architecture,
    attention,
    graph,
    graph_cleaning,
    prompt_expander,
    safety_checker,
    weights_file,
    wrappers,
)
"""What decides a graph and the files it becomes."""

logger = logging.getLogger(__name__)


def traced(component: Architecture, arithmetic: Arithmetic) -> ir.Model:
    """The component's graph with weights as inputs, from the cache or traced and put there."""
    path = _directory() / f"{_key(component, arithmetic)}.onnx"
    serialised = _kept(path)
    if serialised is None:
        model = trace(component, arithmetic)
        serialised = ir.to_proto(model).SerializeToString(deterministic=True)
        _keep(path, serialised)
    return ir.from_proto(onnx.load_from_string(serialised))


def _kept(path: Path) -> bytes | None:
    """A graph whose digest, kept beside it, is still that of its bytes; a warning if it is not."""
    try:
        serialised = path.read_bytes()
        wanted = _digest_of(path).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("%s cannot be read (%s): tracing again", path, error)
        return None
    if hashlib.sha256(serialised).hexdigest() != wanted:
        logger.warning("%s is damaged: tracing again", path)
        return None
    return serialised


def _keep(path: Path, serialised: bytes) -> None:
    try:
        write_atomically(path, serialised)
        write_atomically(_digest_of(path), hashlib.sha256(serialised).hexdigest().encode())
    except OSError as error:
        logger.warning("%s cannot be written (%s): the next export traces again", path, error)


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _key(component: Architecture, arithmetic: Arithmetic) -> str:
    described = json.dumps(
        [component.role, component.config, arithmetic, OPSET, exporter_fingerprint()],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(described.encode()).hexdigest()


@cache
def exporter_fingerprint() -> str:
    """SHA-256 of what turns a component into files: this code and the packages it uses."""
    digest = hashlib.sha256()
    for module in _CODE:
        digest.update(Path(str(module.__file__)).read_bytes())
    for name in EXPORTER_PACKAGES:
        digest.update(f"{name}={version(name)}".encode())
    return digest.hexdigest()


def _directory() -> Path:
    return user_cache_path("lightfill", appauthor=False) / "graphs"
