"""Two models, each as diffusers' pipeline and as our bundle: random epsilon weights, the demo."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import random_checkpoint
import run_directory
import torch
import transformers
from diffusers import StableDiffusionXLInpaintPipeline
from diffusers.utils import logging as diffusers_logging

from lightfill.engine.bundle import DEMO_BUNDLE, Bundle
from lightfill.engine.pipeline import Inpainter
from lightfill.engine.sessions import SessionOptions, open_session
from lightfill.engine.text import TextConditioner

for library in (diffusers_logging, transformers.logging):  # leave `pytest -rP` to the tables
    library.set_verbosity_error()
    library.disable_progress_bar()

ONE_THREAD = SessionOptions(threads=1)
torch.set_num_threads(1)  # two pools that spin for the same cores take ten times as long


@dataclass(frozen=True)
class Model:
    folder: Path
    bundle: Path


# slow: exporting the random model takes about a minute, once a test run
@pytest.fixture(scope="session", params=[pytest.param("random", marks=pytest.mark.slow), "demo"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    if request.param == "demo":
        return Model(random_checkpoint.DEMO_CHECKPOINT, DEMO_BUNDLE)
    directory = run_directory.directory_of(tmp_path_factory)
    return Model(random_checkpoint.checkpoint_in(directory), random_checkpoint.bundle_in(directory))


@pytest.fixture(scope="session")
def load_reference(model: Model) -> Callable[[], StableDiffusionXLInpaintPipeline]:
    """Makes diffusers' pipeline, float32 on the CPU, for tests that change it."""

    def load() -> StableDiffusionXLInpaintPipeline:
        pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(
            model.folder,
            dtype=torch.float32,
            local_files_only=True,
            low_cpu_mem_usage=False,
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


@pytest.fixture(scope="session")
def reference(
    load_reference: Callable[[], StableDiffusionXLInpaintPipeline],
) -> StableDiffusionXLInpaintPipeline:
    return load_reference()


@pytest.fixture(scope="session")
def bundle(model: Model, private_cache: None) -> Bundle:
    return Bundle.open(model.bundle)


@pytest.fixture(scope="session")
def inpainter(model: Model, private_cache: None) -> Iterator[Inpainter]:
    with Inpainter.open(model.bundle, threads=1) as opened:
        yield opened


@pytest.fixture(scope="session")
def conditioner(bundle: Bundle) -> Iterator[TextConditioner]:
    with (
        open_session(bundle, "text_encoder", options=ONE_THREAD) as encoder,
        open_session(bundle, "text_encoder_2", options=ONE_THREAD) as encoder_2,
    ):
        yield TextConditioner(bundle, encoder, encoder_2)
