"""The URL of a server, as settings and callers write it."""

import re

_SITE = re.compile(r"https?://[^/\s?#@]+(/[^\s?#]*)?", re.IGNORECASE)


def site_url(text: str) -> str:
    """`http(s)://host[:port][/path]` without slashes at its end; ValueError for anything else."""
    if not _SITE.fullmatch(text):
        raise ValueError(f"{text!r} is no URL like https://example.org")
    return text.rstrip("/")
