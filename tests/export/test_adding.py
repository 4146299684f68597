"""A bundle gains step counts; what it has stays as it is, to the byte."""

import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_exports import PARTS, digests, export, refused

from lightfill.engine import cli
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import ComponentMissing
from lightfill.engine.manifest import MANIFEST_NAME
from lightfill.engine.pipeline import Inpainter
from lightfill.export import bundle_writer
from lightfill.export.synthetic import synthetic_configs

pytestmark = pytest.mark.slow  # needs the traces that the export of the random checkpoint leaves

FILES = {
    1: "sdxl_lightning_1step_unet_x0.safetensors",
    2: "sdxl_lightning_2step_unet.safetensors",
    4: "sdxl_lightning_4step_unet.safetensors",
}


@pytest.fixture
def out(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle for 4 steps, to be added to."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def lightning(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random checkpoint's UNet, another one per step count, under the names of Lightning's."""
    folder = tmp_path_factory.mktemp("unets") / "lightning"
    folder.mkdir()
    (path,) = (random_folder / "unet").glob("*.safetensors")
    tensors = load_file(path)
    for count, name in FILES.items():
        tensors["conv_out.bias"] = torch.full_like(tensors["conv_out.bias"], count / 8)
        save_file(tensors, folder / name)
    return folder


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def paint(bundle: Path, steps: int) -> Any:
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    mask = np.full((64, 64), 255, np.uint8)
    with Inpainter.open(bundle) as inpainter:
        return inpainter(photo, mask, "a ball", image_size=(64, 64), steps=steps, seed=1).images[0]


class TestAdding:
    def test_another_step_count_changes_the_manifest_and_no_other_file(self, out: Path) -> None:
        before, old_times = digests(out), times(out)
        old = Bundle.open(out).manifest
        made = export(out, steps=(8,))
        assert made == {**dict.fromkeys(PARTS[:4], False), "unet-8step": True}
        after, new_times = digests(out), times(out)
        gained = {f"unet-8step/{name}" for name in ("float32.onnx", "weights.bin")}
        assert after.keys() - before.keys() == {*gained, "licences/NOTICE-unet-8step.md"}
        for path in before.keys() - {MANIFEST_NAME}:
            assert after[path] == before[path]
            assert new_times[str(out / path)] == old_times[str(out / path)]
        new = Bundle.open(out, check=True).manifest
        assert new.steps == {**old.steps, 8: new.steps[8]}
        assert (new.steps[8].component, new.steps[8].prediction) == ("unet-8step", "epsilon")
        assert {**new.components, **old.components} == new.components
        assert after.keys() == {*new.files, MANIFEST_NAME}
        assert new.model_dump(include={"name", "made_with", "source"}) == old.model_dump(
            include={"name", "made_with", "source"}
        )
        assert list(out.parent.iterdir()) == [out]

    def test_the_outcome_is_that_of_exporting_both_at_once(self, out: Path, tmp_path: Path) -> None:
        """But for the second notice; the UNet for 1 step predicts the picture."""
        export(out, steps=(1,))
        at_once = tmp_path / "at-once"
        export(at_once, steps=(1, 4))
        one, other = Bundle.open(out).manifest, Bundle.open(at_once).manifest
        assert (one.components, one.steps) == (other.components, other.steps)
        assert (one.steps[1].component, one.steps[1].prediction) == ("unet-1step", "sample")
        ours, theirs = digests(out), digests(at_once)
        differing = {
            path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)
        }
        notices = {"licences/NOTICE.md", "licences/NOTICE-unet-1step.md"}
        assert differing == {*notices, MANIFEST_NAME}
        assert paint(out, 1).size == (64, 64)

    def test_lightning_s_files_serve_the_counts_in_their_names(
        self, out: Path, lightning: Path, random_folder: Path
    ) -> None:
        made = export(
            out, synthetic=None, steps=(1, 2), unets={None: lightning}, config=random_folder
        )
        assert made == {"unet-1step": True, "unet-2step": True}
        manifest = Bundle.open(out, check=True).manifest
        assert {n: (s.component, s.prediction) for n, s in manifest.steps.items()} == {
            1: ("unet-1step", "sample"),
            2: ("unet-2step", "epsilon"),
            4: ("unet-4step", "epsilon"),
        }
        for count in (1, 2):
            source = manifest.components[f"unet-{count}step"].source
            assert source is not None
            assert source.checkpoint == f"lightning/{FILES[count]}"
        assert manifest.source.checkpoint == "synthetic tiny"

    def test_the_command_that_a_missing_count_s_error_gives_adds_it(
        self,
        out: Path,
        lightning: Path,
        random_folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with pytest.raises(ComponentMissing) as missing:
            paint(out, 2)
        (command,) = re.findall(r"`(lightfill export .*)`", str(missing.value))
        given = ["--unet", lightning, "--config", random_folder, "--arithmetic", "float32"]
        words = [*shlex.split(command), *map(str, given), "--no-verify"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        assert paint(out, 2).size == (64, 64)


class TestNothingToAdd:
    def test_is_done_at_once_and_writes_nothing(
        self, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, old_times = digests(out), times(out)
        parent = out.parent.stat().st_mtime_ns
        monkeypatch.setattr(bundle_writer, "make_component", None)
        monkeypatch.setattr(bundle_writer, "Staging", None)
        start = time.process_time()
        assert export(out, synthetic=None) == {}
        assert time.process_time() - start < 0.5
        assert export(out) == dict.fromkeys(PARTS, False)
        assert (digests(out), times(out)) == (before, old_times)
        assert out.parent.stat().st_mtime_ns == parent

    def test_a_step_count_that_a_unet_serves_too_is_added_without_one(
        self, random_bundle: Path, random_folder: Path, tmp_path: Path
    ) -> None:
        out = Path(shutil.copytree(random_bundle, tmp_path / "bundle"))
        before = digests(out)
        options = {"name": None, "arithmetics": ("float32", "float16"), "synthetic": None}
        made = export(out, **options, base=random_folder, steps=(4, 6))
        assert not any(made.values())
        steps = Bundle.open(out, check=True).manifest.steps
        assert {count: step.component for count, step in steps.items()} == dict.fromkeys(
            (1, 2, 4, 6, 8), "unet"
        )
        after = digests(out)
        assert {path for path in after if after[path] != before.get(path)} == {MANIFEST_NAME}


class TestRefused:
    """And the bundle stays as it was."""

    @pytest.fixture(autouse=True)
    def unchanged(self, out: Path, tmp_path: Path) -> Any:
        before, old_times, around = digests(out), times(out), {*tmp_path.iterdir()}
        yield
        assert (digests(out), times(out)) == (before, old_times)
        assert {*tmp_path.iterdir()} == around

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"weights": "float32"}, "stores float16 weights, float32 are asked for; pass --dtype"),
            (
                {"arithmetics": ("float32", "float16")},
                "has text_encoder in float32, not float32 and float16; pass --arithmetic float32,",
            ),
            ({"arithmetics": ("float16",)}, "has text_encoder in float32, not float16"),
            ({"name": "another"}, "has --name tiny, not another; leave it out"),
            ({"natural_size": 1024}, "has --natural-size 64, not 1024; leave it out"),
            ({"vae": "a/b", "synthetic": None}, "leave --vae out"),
            (
                {"predictions": {4: "v_prediction"}},
                "serves 4 steps with another UNet or prediction",
            ),
        ],
        ids=str,
    )
    def test_a_bundle_of_another_kind(
        self, out: Path, changes: dict[str, Any], message: str
    ) -> None:
        with refused(message):
            export(out, **{"steps": (4, 8), **changes})

    def test_fewer_graphs_than_the_bundle_has(self, random_bundle: Path) -> None:
        before = digests(random_bundle)
        with refused("has text_encoder in float32 and float16, not float32; pass --arithmetic"):
            export(random_bundle, synthetic=None, name=None, steps=(6,))
        assert digests(random_bundle) == before

    def test_another_checkpoint(self, out: Path, random_folder: Path) -> None:
        with refused(r"has another text_encoder \(other weights"):
            export(out, synthetic=None, base=random_folder, steps=(8,))

    def test_another_unet_for_a_count_it_serves(
        self, out: Path, lightning: Path, random_folder: Path
    ) -> None:
        with refused("has another unet-4step"):
            self.add(out, {4: lightning}, random_folder, 4)

    def test_a_unet_of_its_own_for_a_count_that_a_common_one_serves(
        self, random_bundle: Path, lightning: Path, random_folder: Path
    ) -> None:
        with refused("serves 4 steps with another UNet"):
            self.add(random_bundle, {4: lightning}, random_folder, 4, name=None,
                     arithmetics=("float32", "float16"))  # fmt: skip

    def test_a_count_that_a_folder_lacks(
        self, out: Path, lightning: Path, random_folder: Path
    ) -> None:
        message = "lightning has no sdxl_lightning_8step_unet.safetensors (it has "
        with refused(
            re.escape(message) + r"sdxl_.*4step_unet\.safetensors\); pass --unet 8=SOURCE"
        ):
            self.add(out, {None: lightning}, random_folder, 8)

    def test_a_file_made_for_another_count(
        self, out: Path, lightning: Path, random_folder: Path
    ) -> None:
        with refused("is a UNet for 4 steps, asked to serve 8; pass --steps 4"):
            self.add(out, {8: lightning / FILES[4]}, random_folder, 8)

    def test_a_unet_that_reads_wider_text(
        self, out: Path, tmp_path_factory: pytest.TempPathFactory, random_folder: Path
    ) -> None:
        folder = tmp_path_factory.mktemp("wide") / "unet"
        settings = synthetic_configs("tiny")["unet"] | {"cross_attention_dim": 48}
        UNet2DConditionModel.from_config(settings).save_pretrained(folder)
        with refused("reads text 48 wide, the encoders of .* write 40; pass the --base"):
            self.add(out, {8: folder}, random_folder, 8)

    def add(self, out: Path, unets: Any, config: Path, count: int, **changes: Any) -> None:
        export(out, synthetic=None, steps=(count,), unets=unets, config=config, **changes)
