"""What stops an export is said in one sentence, and leaves nothing that looks like a bundle."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_checkpoint import WIDTHS
from safetensors.torch import load_file, save_file
from tiny_exports import PARTS, digests, export, refused, staged

from lightfill.engine.bundle import Bundle
from lightfill.engine.pipeline import Inpainter
from lightfill.export import bundle_writer, component_writer, verification
from lightfill.export.weights_file import write_component


@pytest.fixture
def folder(random_folder: Path, tmp_path: Path) -> Path:
    """The random checkpoint, to be damaged: hard links, so write new files, not into old ones."""
    return shutil.copytree(random_folder, tmp_path / "checkpoint", copy_function=os.link)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def edit(path: Path, **settings: Any) -> None:
    replace(path, json.dumps({**json.loads(path.read_text()), **settings}).encode())


def drop(path: Path, setting: str) -> None:
    content = json.loads(path.read_text())
    del content[setting]
    replace(path, json.dumps(content).encode())


def truncate(path: Path) -> None:
    content = path.read_bytes()
    replace(path, content[: len(content) // 2])


def change_tensor(path: Path, end: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Of the first tensor whose name ends so."""
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(end))
    tensors[name] = change(tensors[name])
    path.unlink()
    save_file(tensors, path)


def drop_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors[min(tensors)]
    path.unlink()
    save_file(tensors, path)


UNET = "unet/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"
BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty folder": (
        lambda folder: (shutil.rmtree(folder), folder.mkdir()),
        "not a diffusers SDXL folder: scheduler/scheduler_config.json is missing; pass the folder",
    ),
    "no such folder": (shutil.rmtree, "is neither an existing path nor a hub id; pass a folder"),
    "no tokenizer": (
        lambda folder: shutil.rmtree(folder / "tokenizer_2"),
        "checkpoint has no tokenizer_2; copy the checkpoint again",
    ),
    "half a tokenizer": (
        lambda folder: [truncate(path) for path in (folder / "tokenizer").glob("*.json")],
        "checkpoint/tokenizer cannot be loaded .*; copy the checkpoint again",
    ),
    "no text encoder": (
        lambda folder: shutil.rmtree(folder / "text_encoder"),
        "has no file 'text_encoder/config.json', it has .*; pass a folder that has it",
    ),
    "truncated weights": (
        lambda folder: truncate(folder / "text_encoder/model.safetensors"),
        r"model.safetensors cannot be read as weights \(.*\); copy the checkpoint again",
    ),
    "no weights": (
        lambda folder: (folder / UNET).unlink(),
        "checkpoint has no weights named .* in unet/, only unet/config.json; pass a",
    ),
    "a tensor too few": (
        lambda folder: drop_tensor(folder / UNET),
        r"checkpoint/unet lacks 1 of the \d+ tensors of unet, such as '.*'; pass a whole SDXL",
    ),
    "a tensor of another shape": (
        lambda folder: change_tensor(folder / UNET, "conv_in.bias", lambda old: old[1:]),
        r"conv_in.bias has shape \(7,\), the configuration of unet wants \(8,\); pass weights",
    ),
    "malformed JSON": (
        lambda folder: truncate(folder / "unet/config.json"),
        r"config.json cannot be read \(.*\); copy the checkpoint again",
    ),
    "no configuration": (
        lambda folder: replace(folder / "unet/config.json", b"[]"),
        "config.json is no configuration; copy the checkpoint again",
    ),
    "a configuration of nothing": (
        lambda folder: edit(folder / "vae/config.json", block_out_channels=[4, 8, 8, 13]),
        r"vae_encoder|vae: its configuration makes no vae_encoder \(.*\); pass",
    ),
    "SD 1.5": (
        lambda folder: edit(folder / "unet/config.json", addition_embed_type=None),
        "not a 4-channel SDXL UNet .*; pass an SDXL checkpoint",
    ),
    "inpainting UNet": (
        lambda folder: edit(folder / "unet/config.json", in_channels=9),
        r"in_channels 9\); pass an SDXL checkpoint",
    ),
    "another VAE": (
        lambda folder: edit(folder / "vae/config.json", block_out_channels=[8, 16]),
        "vae scales by 2, not 8; pass an SDXL checkpoint",
    ),
    "flow matching": (
        lambda folder: edit(folder / SCHEDULER, prediction_type="flow"),
        "prediction_type 'flow' of checkpoint is not one of epsilon.*; pass --prediction",
    ),
    "other betas": (
        lambda folder: edit(folder / SCHEDULER, beta_schedule="linear"),
        "beta_schedule 'linear' of checkpoint is not scaled_linear.*; pass an SDXL checkpoint",
    ),
    "half a noise process": (
        lambda folder: drop(folder / SCHEDULER, "beta_end"),
        "checkpoint has no 'beta_end'; pass an SDXL checkpoint",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_checkpoint_that_cannot_be_exported_leaves_nothing_behind(
    folder: Path, out: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    before = set(out.parent.iterdir())
    with refused(message):
        export(out, synthetic=None, base=folder)
    assert set(out.parent.iterdir()) == before


class TestThePlace:
    @pytest.fixture(autouse=True)
    def no_tracing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundle_writer, "make_component", None)

    def test_something_else_in_it_is_left_alone(self, out: Path) -> None:
        out.mkdir()
        (out / "precious").write_text("kept")
        with refused("exists and is no bundle; remove it or choose another --out"):
            export(out)
        assert [path.name for path in out.iterdir()] == ["precious"]
        assert list(out.parent.iterdir()) == [out]

    @pytest.mark.parametrize("place", ["file/bundle", "file/deep/bundle"])
    def test_one_that_cannot_be_written_is_named(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "file").write_text("not a directory")
        with refused(f"{place} cannot be written .*; free space or choose another --out"):
            export(tmp_path / place)

    def test_a_name_longer_than_names_may_be(self, tmp_path: Path) -> None:
        with refused("File name too long.*; .*choose another --out"):
            export(tmp_path / ("x" * 300))

    def test_too_little_room_is_found_before_anything_is_made(
        self, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage(out.parent)._replace(free=50_000_000)
        asked: list[Path] = []
        monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage)
        with refused(r"needs 0\.1 GB, .* has 0\.1 GB free; free some or choose another --out"):
            export(out.parent / "deep" / "bundle")
        assert asked == [out.parent]
        assert list(out.parent.iterdir()) == []


@pytest.mark.slow  # needs the traces that the export of the random checkpoint leaves
class TestInTheMiddle:
    def test_a_full_disk_keeps_what_is_finished(
        self, tiny_bundle: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*given: Any) -> None:
            if any("vae_encoder" in str(each) for each in given):
                raise OSError(errno.ENOSPC, "No space left on device")
            write_component(*given)

        with monkeypatch.context() as patch:
            patch.setattr(component_writer, "write_component", full)
            with refused("No space left on device.*; .* run the same command again: finished"):
                export(out)
        assert not out.exists()
        assert staged(out) == {"text_encoder", "text_encoder_2"}
        made = export(out)
        assert [name for name in PARTS if not made[name]] == ["text_encoder", "text_encoder_2"]
        assert digests(out) == digests(tiny_bundle)

    def test_a_disk_that_is_full_when_a_unet_is_moved_in_leaves_the_old_bundle(
        self, tiny_bundle: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(tiny_bundle, out)
        replace = Path.replace

        def full(path: Path, target: Path) -> Path:
            if target.parent.name == "licences":
                raise OSError(errno.ENOSPC, "No space left on device")
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            with refused("No space left on device"):
                export(out, steps=(4, 8))
        assert set(Bundle.open(out, check=True).manifest.steps) == {4}
        assert export(out, steps=(4, 8))["unet-8step"] is False
        assert set(Bundle.open(out, check=True).manifest.steps) == {4, 8}

    def test_a_component_unlike_pytorch_s_is_not_published(
        self, random_bundle: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verification, "MINIMUM_PSNR", {"float32": 1000.0})
        message = (
            r"text_encoder: the float32 graph differs from PyTorch by \S+ \(\d+\.\d dB\); report"
        )
        with refused(message):
            export(out, verify=True)
        assert list(out.parent.iterdir()) == []


@pytest.mark.slow  # needs the traces that the export of the random checkpoint leaves
class TestOverflow:
    @pytest.mark.parametrize("tensor", ["fc1.bias", "token_embedding.weight"])
    def test_weights_too_large_for_float16_are_named_and_float32_holds_them(
        self, random_bundle: Path, folder: Path, out: Path, tensor: str
    ) -> None:
        path = folder / "text_encoder" / "model.safetensors"
        change_tensor(path, tensor, lambda old: old.float() + 1e5)
        options: dict[str, Any] = {"synthetic": None, "base": folder, "natural_size": 64}
        with refused(f"{tensor} does not fit float16; export with --dtype fp32"):
            export(out, **options)
        assert not out.exists()
        if tensor == "fc1.bias":
            export(out, **options, weights="float32")
            bundle = Bundle.open(out, check=True)
            for role, width in WIDTHS.items():
                assert bundle.token_embedding(role).shape == (49408, width)
                assert bundle.token_embedding(role).dtype == "float32"
            picture, mask = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)
            with Inpainter(bundle) as inpainter:
                assert inpainter(picture, mask, "a ball", image_size=(64, 64), seed=1).images
