"""`lightfill export`: text from the command line to export options."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from ..engine.errors import ExportError
from ..engine.manifest import Arithmetic
from .bundle_writer import ExportOptions, export_bundle


def export_from_command_line(
    *,
    base: Path,
    out: Path,
    steps: str,
    name: str,
    natural_size: int,
    arithmetics: Sequence[str] | None,
    weights: str,
    on_component: Callable[[str, Arithmetic], None],
) -> Path:
    """Check the options, export, and return the bundle directory."""
    try:
        counts = sorted({int(count) for count in steps.split(",")})
    except ValueError:
        raise ExportError(f"--steps {steps!r} is no list of numbers; write it as 1,2,4,8") from None
    default = ["float32"] if weights == "float32" else ["float32", "float16"]
    options = ExportOptions(
        name=name,
        steps=counts,
        natural_size=natural_size,
        weights=_arithmetic("--weights", weights),
        arithmetics=[_arithmetic("--arithmetic", kind) for kind in arithmetics or default],
    )
    return export_bundle(base, out, options, on_component)


def _arithmetic(option: str, text: str) -> Arithmetic:
    for known in get_args(Arithmetic):
        if text == known:
            found: Arithmetic = known
            return found
    raise ExportError(f"{option} {text!r} is not one of {', '.join(get_args(Arithmetic))}")
