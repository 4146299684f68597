import gc
from pathlib import Path

import pytest
import random_checkpoint
import run_directory
import tiny_exports
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from lightfill.engine.bundle import Bundle

for library in (diffusers_logging, transformers_logging):
    library.set_verbosity_error()
    library.disable_progress_bar()


@pytest.fixture(scope="session", autouse=True)
def imported_libraries_are_no_garbage() -> None:
    """Exports collect garbage after every graph; looking through PyTorch is most of that time."""
    gc.freeze()


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint.checkpoint_in(run_directory.directory_of(tmp_path_factory))


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory, private_cache: None) -> Path:
    """Both graphs of every component; the traces stay in this run's cache for later exports."""
    return random_checkpoint.bundle_in(run_directory.directory_of(tmp_path_factory))


@pytest.fixture(scope="session")
def tiny_bundle(random_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_exports.OPTIONS`, exported undisturbed; tests that change it copy it."""
    out = tmp_path_factory.mktemp("undisturbed") / "bundle"
    tiny_exports.export(out)
    return out


# slow: exporting the random model takes more than a minute, once a test run
@pytest.fixture(scope="session", params=["demo", pytest.param("random", marks=pytest.mark.slow)])
def bundle(request: pytest.FixtureRequest, private_cache: None) -> Bundle:
    """The committed bundle, and one that the exporter as it is now has made."""
    path = None if request.param == "demo" else request.getfixturevalue("random_bundle")
    return Bundle.open(path)
