from collections.abc import Iterator
from pathlib import Path

import pytest
import random_checkpoint
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from lightfill.engine.bundle import Bundle

for library in (diffusers_logging, transformers_logging):
    library.set_verbosity_error()
    library.disable_progress_bar()


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint.checkpoint_in(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint.bundle_in(tmp_path_factory.getbasetemp())


# slow: exporting the random model takes about a minute, once a test run
@pytest.fixture(scope="session", params=["demo", pytest.param("random", marks=pytest.mark.slow)])
def bundle(request: pytest.FixtureRequest, private_cache: None) -> Iterator[Bundle]:
    """The committed bundle, and one that the exporter as it is now has made."""
    path = None if request.param == "demo" else request.getfixturevalue("random_bundle")
    yield Bundle.open(path)
