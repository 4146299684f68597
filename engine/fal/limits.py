"""Byte limits: counted while reading, so that no more than the limit is ever held."""

from collections.abc import Iterable, Iterator

from ..errors import FileTooLarge


def too_large(field: str, limit: int) -> FileTooLarge:
    """The error for a file of more than `limit` bytes, with fal's ctx."""
    size = f"{limit / 2**20:.4g} MiB" if limit >= 2**20 else f"{limit} bytes"
    message = f"the file has more than {size}; make it smaller"
    return FileTooLarge(field, message, context={"max_size": limit})


def limited(chunks: Iterable[bytes], limit: int, field: str) -> Iterator[bytes]:
    """The same chunks; raises FileTooLarge instead of the one that goes beyond `limit`."""
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise too_large(field, limit)
        yield chunk
