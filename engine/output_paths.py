"""Where `lightfill inpaint` writes: settled, and known to be writable, before any work."""

import tempfile
from pathlib import Path

from .errors import InvalidInput
from .images import FORMATS, format_of


def output_path(output: Path | None, file_format: str | None, image: Path) -> Path:
    """Where to write, its ending agreeing with --format."""
    if file_format is not None and file_format not in FORMATS:
        raise InvalidInput("format", f"{file_format!r} is not one of {', '.join(FORMATS)}")
    target = output or Path(f"{image.stem}-inpainted.{file_format or 'png'}")
    if file_format is not None and format_of(target) != file_format:
        raise InvalidInput("format", f"{file_format} differs from {target}; leave one of them out")
    format_of(target)
    return target


def check_writable(target: Path) -> None:
    """Find out before the work, not after it, that the result cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise InvalidInput(
            "output", f"{target} cannot be written: {error.strerror}; choose another path"
        ) from error
    if target.is_dir():
        raise InvalidInput("output", f"{target} is a directory; name a file in it")


def numbered(target: Path, count: int) -> list[Path]:
    """One path, or one per picture: name-1.png, name-2.png, ..."""
    if count == 1:
        return [target]
    return [target.with_stem(f"{target.stem}-{number}") for number in range(1, count + 1)]
