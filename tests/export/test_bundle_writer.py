"""A diffusers folder becomes a whole, portable bundle, or nothing at all."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoint import DEMO_CHECKPOINT, ROOT, SCALING_FACTOR, WIDTHS
from safetensors.numpy import load_file

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import BundleNotFound, ExportError
from lightfill.engine.manifest import MANIFEST_NAME
from lightfill.engine.pipeline import Inpainter
from lightfill.export.bundle_writer import ExportOptions, export_bundle
from lightfill.export.wrappers import WRAPPERS

OPTIONS = ExportOptions(name="test", arithmetics=("float32",))


class Stopped(Exception):
    """Raised where the long part of an export would begin."""


def stop(*_: object) -> None:
    raise Stopped


@pytest.fixture
def folder(random_folder: Path, tmp_path: Path) -> Path:
    """The random checkpoint, to be damaged: hard links, so write new files, not into old ones."""
    return shutil.copytree(random_folder, tmp_path / "checkpoint", copy_function=os.link)


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def edit(path: Path, **settings: Any) -> None:
    replace(path, json.dumps({**json.loads(path.read_text()), **settings}).encode())


def truncate(path: Path) -> None:
    content = path.read_bytes()
    replace(path, content[: len(content) // 2])


@pytest.mark.slow  # exports a whole model
class TestAWholeBundle:
    def test_opens_with_every_file_checked_and_paints(self, random_bundle: Path) -> None:
        bundle = Bundle.open(random_bundle, check=True)
        photo = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
        mask = np.zeros((64, 96), np.uint8)
        mask[16:48, 16:48] = 255
        with Inpainter(bundle) as inpainter:
            result = inpainter(photo, mask, "a ball", image_size=(96, 64), steps=2, seed=1)
        assert np.asarray(result.images[0])[mask > 0].std() > 1

    def test_manifest_says_where_it_came_from_and_what_is_inside(
        self, random_bundle: Path, random_folder: Path
    ) -> None:
        manifest = Bundle.open(random_bundle).manifest
        assert (manifest.name, manifest.natural_size) == ("random", 64)
        assert manifest.source.checkpoint == random_folder.name
        assert manifest.made_with == {
            "opset": "20",
            **{
                name: version(name) for name in ("torch", "diffusers", "transformers", "onnxscript")
            },
        }
        assert {name: part.role for name, part in manifest.components.items()} == {
            role: role for role in WRAPPERS
        }
        assert all(list(part.graphs) == ["float32"] for part in manifest.components.values())
        assert set(manifest.steps) == {1, 2, 4, 8}
        assert {(s.component, s.prediction) for s in manifest.steps.values()} == {
            ("unet", "epsilon")
        }
        assert manifest.scheduler.beta_start == 0.00085
        assert manifest.scheduler.beta_end == 0.012
        assert manifest.scheduler.num_train_timesteps == 1000
        assert manifest.vae.scaling_factor == SCALING_FACTOR

    def test_lists_every_file_with_its_size_and_digest(self, random_bundle: Path) -> None:
        listed = Bundle.open(random_bundle).manifest.files
        found = {p.relative_to(random_bundle).as_posix() for p in random_bundle.rglob("*.*")}
        assert found == {*listed, MANIFEST_NAME}
        for path, entry in listed.items():
            content = (random_bundle / path).read_bytes()
            assert len(content) == entry.bytes
            assert hashlib.sha256(content).hexdigest() == entry.sha256

    def test_both_tokenizers_share_one_file_and_keep_their_padding(
        self, random_bundle: Path
    ) -> None:
        tokenizers = Bundle.open(random_bundle).manifest.tokenizers
        assert {entry.file for entry in tokenizers.values()} == {"tokenizer/tokenizer.json"}
        assert tokenizers["text_encoder"].pad_token_id == 49407
        assert tokenizers["text_encoder_2"].pad_token_id == 0
        assert "!" in tokenizers["text_encoder_2"].special_tokens
        assert "!" not in tokenizers["text_encoder"].special_tokens

    def test_token_tables_are_the_checkpoint_s(
        self, random_bundle: Path, random_folder: Path
    ) -> None:
        for role, width in WIDTHS.items():
            table = Bundle.open(random_bundle).token_embedding(role)
            weights = load_file(random_folder / role / "model.safetensors")
            (name,) = (name for name in weights if "token_embedding" in name)
            assert table.shape == (49408, width)
            np.testing.assert_array_equal(table, weights[name])

    def test_licences_travel(self, random_bundle: Path, random_folder: Path) -> None:
        licences = Bundle.open(random_bundle).manifest.licences
        assert [licence.file for licence in licences] == ["licences/LICENSE.md"]
        text = (random_bundle / "licences/LICENSE.md").read_text()
        assert text == (random_folder / "LICENSE.md").read_text()


def test_no_file_names_a_directory_of_the_machine_that_made_it(bundle: Bundle) -> None:
    known = [ROOT, Path.home(), Path(sys.prefix), DEMO_CHECKPOINT]
    telling = [f"{path}/".encode() for path in known if len(path.parts) > 1]
    telling += [b"site-packages", b"/home/", b"/Users/", b"/tmp/", b"/usr/", b"torch/nn"]
    for path in [*bundle.manifest.files, MANIFEST_NAME]:
        content = (bundle.root / path).read_bytes()
        assert not [place for place in telling if place in content], path


def test_an_existing_out_is_refused_and_left_alone(random_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "precious").write_text("kept")
    with pytest.raises(ExportError, match="exists; remove it or choose another"):
        export_bundle(random_folder, out, OPTIONS, stop)
    assert [path.name for path in out.iterdir()] == ["precious"]


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty folder": (
        lambda folder: (shutil.rmtree(folder), folder.mkdir()),
        "not a diffusers SDXL folder: scheduler/scheduler_config.json is missing",
    ),
    "no such folder": (shutil.rmtree, "not a diffusers SDXL folder"),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer_2"), "tokenizer_2 knows"),
    "no text encoder": (
        lambda folder: shutil.rmtree(folder / "text_encoder"),
        "text_encoder/config.json cannot be read",
    ),
    "truncated weights": (
        lambda folder: truncate(folder / "text_encoder/model.safetensors"),
        "text_encoder cannot be loaded",
    ),
    "malformed JSON": (
        lambda folder: truncate(folder / "unet/config.json"),
        r"unet/config.json cannot be read \(.*\); copy",
    ),
    "SD 1.5": (
        lambda folder: edit(folder / "unet/config.json", addition_embed_type=None),
        "not a 4-channel SDXL UNet",
    ),
    "inpainting UNet": (
        lambda folder: edit(folder / "unet/config.json", in_channels=9),
        "in_channels 9",
    ),
    "another VAE": (
        lambda folder: edit(folder / "vae/config.json", block_out_channels=[8, 16]),
        "vae scales by 2, not 8; pass an SDXL checkpoint",
    ),
    "flow matching": (
        lambda folder: edit(folder / "scheduler/scheduler_config.json", prediction_type="flow"),
        "prediction_type 'flow' is not one of epsilon",
    ),
    "other betas": (
        lambda folder: edit(folder / "scheduler/scheduler_config.json", beta_schedule="linear"),
        "beta_schedule 'linear' is not scaled_linear",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_checkpoint_that_cannot_be_exported_leaves_nothing_behind(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    before = set(tmp_path.iterdir())
    with pytest.raises(ExportError, match=message) as raised:
        export_bundle(folder, tmp_path / "bundle", OPTIONS)
    assert set(tmp_path.iterdir()) == before
    assert "\n" not in str(raised.value), "one sentence"


def test_whatever_stops_an_export_leaves_nothing_behind(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "LICENSE.md").unlink()
    with pytest.raises(Stopped):
        export_bundle(folder, tmp_path / "deep" / "bundle", OPTIONS, stop)
    assert list((tmp_path / "deep").iterdir()) == []
    assert "carries no licence text" in caplog.text


def test_a_place_that_cannot_be_written_is_an_export_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ExportError, match="cannot be written"):
        export_bundle(folder, tmp_path / "file" / "bundle", OPTIONS, stop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "float32"}, "a float16 graph needs float16 weights"),
        ({"steps": ()}, "one or more counts"),
        ({"steps": (4, 0)}, "one or more counts"),
        ({"natural_size": 4096}, "64..2048"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_loaded(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        ExportOptions(name="test", **options)


@pytest.mark.slow  # starts PyTorch in a process of its own
def test_a_killed_export_leaves_no_bundle(random_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    script = (
        "import sys; from pathlib import Path\n"
        "from lightfill.export.bundle_writer import ExportOptions, export_bundle\n"
        "options = ExportOptions(name='killed', arithmetics=('float32',))\n"
        "announce = lambda name, _: print(name, flush=True)\n"
        "export_bundle(Path(sys.argv[1]), Path(sys.argv[2]), options, announce)\n"
    )
    command = [sys.executable, "-c", script, str(random_folder), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "text_encoder\n"
        assert process.stdout.readline() == "text_encoder_2\n"  # the first component is on disk
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    (partial,) = tmp_path.iterdir()
    assert (partial / "text_encoder" / "weights.bin").exists(), "killed before it had begun"
    with pytest.raises(BundleNotFound):
        Bundle.open(partial)
    with pytest.raises(Stopped):
        export_bundle(random_folder, out, OPTIONS, stop)
    assert not list(tmp_path.iterdir()), "the next export cleans up what the killed one left"


def test_two_exports_do_not_write_the_same_bundle(random_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"

    def export_again(*_: object) -> None:
        with pytest.raises(ExportError, match="another export is writing"):
            export_bundle(random_folder, out, OPTIONS, stop)
        raise Stopped

    with pytest.raises(Stopped):
        export_bundle(random_folder, out, OPTIONS, export_again)
