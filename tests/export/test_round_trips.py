"""One checkpoint in every layout gives one bundle, byte for byte, and diffusers' pictures."""

from collections.abc import Callable
from pathlib import Path

import layouts
import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from pictures import diffusers_picture, largest_difference, our_picture, photo, soft_mask
from safetensors.torch import load_file

from lightfill.engine.bundle import Bundle
from lightfill.engine.manifest import Manifest
from lightfill.engine.pipeline import Inpainter
from lightfill.export.base import folder_weights
from lightfill.export.bundle_writer import export_bundle
from lightfill.export.repositories import LocalFolder
from lightfill.export.request import ExportRequest

torch.set_num_threads(1)

LAYOUTS = (
    layouts.float32_folder,
    layouts.shards,
    layouts.half_beside_single,
    layouts.pickles,
    layouts.original_file,
    layouts.diffusers_file,
)

Layout = Callable[[Path, Path], Path]


@pytest.fixture(scope="module")
def export_of(
    random_folder: Path, random_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Layout], tuple[Path, Path]]:
    """Writes the random checkpoint in a layout and exports that, once; the source and the bundle.

    Tracing is over with `random_bundle`.
    """
    made: dict[Layout, tuple[Path, Path]] = {}

    def export(layout: Layout) -> tuple[Path, Path]:
        if layout not in made:
            directory = tmp_path_factory.mktemp(layout.__name__)
            source, out = layout(random_folder, directory / "checkpoint"), directory / "bundle"
            config = random_folder if source.is_file() else None
            export_bundle(
                ExportRequest(
                    out=out, base=source, config=config, arithmetics=("float32",), verify=False,
                    natural_size=64,
                )
            )  # fmt: skip
            made[layout] = source, out
        return made[layout]

    return export


def component_files(manifest: Manifest) -> dict[str, str]:
    """SHA-256 of every file but licences and float16 graphs, whose weights are the same file."""
    return {
        path: entry.sha256
        for path, entry in manifest.files.items()
        if not path.startswith("licences/") and not path.endswith("float16.onnx")
    }


@pytest.mark.slow  # needs the random bundle, whose traces take a minute
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_same_files(
    layout: Layout, export_of: Callable[[Layout], tuple[Path, Path]], random_bundle: Path
) -> None:
    source, out = export_of(layout)
    found, wanted = Bundle.open(out).manifest, Bundle.open(random_bundle).manifest
    assert component_files(found) == component_files(wanted)
    assert len(component_files(found)) == 5 * 2 + 2 + 1  # graphs and weights, tables, tokenizer
    assert found.source.checkpoint == source.name
    assert {part.source for part in found.components.values()} == {found.source}
    for part in ("steps", "tokenizers", "scheduler", "vae", "natural_size"):
        assert getattr(found, part) == getattr(wanted, part), part


@pytest.mark.slow  # needs the random bundle, whose traces take a minute
@pytest.mark.parametrize("size", [(64, 64), (96, 160)], ids=str)
def test_an_original_file_gives_the_picture_diffusers_makes_of_it(
    size: tuple[int, int],
    export_of: Callable[[Layout], tuple[Path, Path]],
    random_folder: Path,
) -> None:
    source, out = export_of(layouts.original_file)
    pipeline = StableDiffusionXLInpaintPipeline.from_single_file(
        str(source), config=str(random_folder), dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    with Inpainter.open(out, threads=1) as inpainter:
        for steps in (1, 4):
            theirs = diffusers_picture(
                pipeline, size, steps=steps, strength=1.0, image=photo(), mask=soft_mask()
            )
            ours = our_picture(inpainter, size, steps=steps)
            assert theirs.std() > 15, "equal grey pictures would prove nothing"
            assert largest_difference(ours, theirs) <= 1, steps


def test_float32_files_are_preferred_for_float32_weights(
    random_folder: Path, tmp_path: Path
) -> None:
    source = layouts.half_beside_single(random_folder, tmp_path / "checkpoint")
    for part in layouts.PARTS:
        stored = load_file(layouts.weights_file(random_folder, part))
        key, tensor = next((key, each) for key, each in stored.items() if each.ndim > 1)
        canonical = f"text_model.{key}" if part == "text_encoder" else key
        for prefer_half, wanted in ((True, tensor), (False, 2 * tensor.float() + 1)):
            weights = folder_weights(LocalFolder(source), part, part, prefer_half)
            assert torch.equal(weights.read(canonical), wanted)
