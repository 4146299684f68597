"""Parts of a Markdown page that a program writes, between two comments that mark them."""

from pathlib import Path

from ..engine.atomic_write import write_atomically
from ..engine.errors import InvalidInput


def markers(name: str) -> tuple[str, str]:
    """The two comments around the part called `name`."""
    return f"<!-- {name} begin -->", f"<!-- {name} end -->"


def replaced(text: str, name: str, part: str) -> str:
    """`text` with `part` between its markers; InvalidInput unless both are there once, in order."""
    begin, end = markers(name)
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if text.count(begin) != 1 or text.count(end) != 1 or end not in rest:
        raise InvalidInput(
            "page", f"needs the line {begin} and after it {end}, once each; add them"
        )
    return f"{before}{begin}\n{part}{end}{after}"


def write(page: Path, name: str, part: str) -> None:
    """Replace the part in a file, whole or not at all."""
    text = replaced(page.read_text(encoding="utf-8"), name, part)
    write_atomically(page, text.encode())
