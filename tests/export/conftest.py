from pathlib import Path

import pytest
import random_checkpoint


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint.checkpoint_in(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint.bundle_in(tmp_path_factory.getbasetemp())
