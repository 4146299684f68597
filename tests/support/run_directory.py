"""What the worker processes of one test run share: a directory, and things made once in it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock


def directory_of(factory: pytest.TempPathFactory) -> Path:
    """The run's temporary directory; under pytest-xdist each worker's own lies below it."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextlib.contextmanager
def made_once(path: Path) -> Iterator[bool]:
    """Whether `path` is still to be made; other processes wait until it has been."""
    with FileLock(path.with_name(f"{path.name}.lock")):
        yield not path.exists()
