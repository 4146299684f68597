"""The Range header (RFC 9110, section 14): which bytes of a file a reader wants."""

import re

_SPEC = re.compile(r"[ \t]*(?:([0-9]{0,18})-([0-9]{0,18}))?[ \t]*")
_MAX_RANGES = 100
"""More are a way to be a nuisance, not to read: the whole file is sent."""


class NotSatisfiable(Exception):
    """No range begins within the file."""


def satisfiable(header: str, size: int) -> str | None:
    """The header with those ranges only that a file of `size` bytes has.

    None: it is malformed or of another unit, and to be ignored, as the RFC says. Raises
    NotSatisfiable.
    """
    unit, equals, given = header.partition("=")
    specs = given.split(",")
    if unit.strip().lower() != "bytes" or not equals or len(specs) > _MAX_RANGES:
        return None
    found = []
    for spec in specs:
        matched = _SPEC.fullmatch(spec)
        if matched is None or matched[0].strip() == "-":
            return None
        first, last = matched[1], matched[2]
        if first is None:  # an empty element of the list
            continue
        if first and last and int(last) < int(first):
            return None
        found.append((first, last))
    if not found:
        return None
    there = [f"{first}-{last}" for first, last in found if _begins(first, last, size)]
    if not there:
        raise NotSatisfiable
    return f"bytes={','.join(there)}"


def _begins(first: str, last: str, size: int) -> bool:
    """Whether the range has a byte of the file; without `first` it is the last `last` bytes."""
    return int(first) < size if first else int(last) > 0 and size > 0
