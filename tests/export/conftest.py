from pathlib import Path

import pytest
import random_checkpoint
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from lightfill.engine.bundle import Bundle
from lightfill.export.checkpoint import DiffusersFolder
from lightfill.export.graph import export_graph
from lightfill.export.weights import SharedWeights
from lightfill.export.wrappers import WRAPPERS

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
def bundle(request: pytest.FixtureRequest, private_cache: None) -> Bundle:
    """The committed bundle, and one that the exporter as it is now has made."""
    path = None if request.param == "demo" else request.getfixturevalue("random_bundle")
    return Bundle.open(path)


@pytest.fixture(scope="session")
def text_encoder_2(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one component exported in both arithmetics: about ten seconds."""
    directory = tmp_path_factory.mktemp("text-encoder-2")
    model = DiffusersFolder(random_folder).load("text_encoder_2", torch.float16)
    module = WRAPPERS["text_encoder_2"](model)
    with SharedWeights(directory / "weights.bin") as weights:
        for arithmetic in ("float32", "float16"):
            graph = export_graph(module, "text_encoder_2", arithmetic)
            weights.save(graph, f"{arithmetic}.onnx")
    return directory
