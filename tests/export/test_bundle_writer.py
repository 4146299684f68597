"""A checkpoint becomes a whole, portable bundle that says what it is made of."""

import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from random_checkpoint import DEMO_CHECKPOINT, ROOT, SCALING_FACTOR, WIDTHS
from safetensors.numpy import load_file
from tiny_exports import digests

from lightfill.engine.bundle import Bundle
from lightfill.engine.manifest import MANIFEST_NAME, Arithmetic, Manifest
from lightfill.engine.pipeline import Inpainter
from lightfill.export.graph import OPSET
from lightfill.export.graph_cache import EXPORTER_PACKAGES
from lightfill.export.verification import MINIMUM_PSNR

ROLES = {"text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder"}


@pytest.fixture(scope="module")
def manifest(random_bundle: Path) -> Manifest:
    return Bundle.open(random_bundle).manifest


@pytest.mark.slow  # exports a whole model, the first test of a run to do so
class TestAWholeBundle:
    def test_opens_with_every_file_checked_and_paints(self, random_bundle: Path) -> None:
        bundle = Bundle.open(random_bundle, check=True)
        photo = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
        mask = np.zeros((64, 96), np.uint8)
        mask[16:48, 16:48] = 255
        with Inpainter(bundle) as inpainter:
            result = inpainter(photo, mask, "a ball", image_size=(96, 64), steps=2, seed=1)
        assert np.asarray(result.images[0])[mask > 0].std() > 1

    def test_says_where_it_came_from_and_with_what_it_was_made(
        self, manifest: Manifest, random_folder: Path
    ) -> None:
        assert (manifest.name, manifest.natural_size) == ("random", 64)
        assert (manifest.source.checkpoint, manifest.source.revision) == (random_folder.name, None)
        assert manifest.made_with == {
            "opset": str(OPSET),
            **{name: version(name) for name in EXPORTER_PACKAGES},
        }

    def test_has_every_component_in_both_arithmetics(self, manifest: Manifest) -> None:
        assert {name: part.role for name, part in manifest.components.items()} == {
            role: role for role in ROLES
        }
        for name, part in manifest.components.items():
            assert part.graphs == {kind: f"{name}/{kind}.onnx" for kind in get_args(Arithmetic)}
            assert part.source == manifest.source
            assert part.loras == []
        assert len({part.made_from for part in manifest.components.values()}) == len(ROLES)

    @pytest.mark.parametrize("name", sorted(ROLES))
    def test_every_component_was_verified_in_both_at_two_sizes(
        self, manifest: Manifest, name: str
    ) -> None:
        found = manifest.components[name].verification
        for arithmetic in get_args(Arithmetic):
            ours = [each for each in found if each.arithmetic == arithmetic]
            assert len(ours) == 2
            assert ours[0].sizes != ours[1].sizes
            for each in ours:
                assert each.passed
                assert MINIMUM_PSNR[arithmetic] <= each.psnr_db <= 999
                assert 0 <= each.max_abs_error < 1

    def test_its_one_unet_serves_every_step_count(self, manifest: Manifest) -> None:
        served = {count: (s.component, s.prediction) for count, s in manifest.steps.items()}
        assert served == dict.fromkeys((1, 2, 4, 8), ("unet", "epsilon"))

    def test_has_the_noise_process_and_the_vae_s_scaling(self, manifest: Manifest) -> None:
        assert manifest.scheduler.beta_start == 0.00085
        assert manifest.scheduler.beta_end == 0.012
        assert manifest.scheduler.num_train_timesteps == 1000
        assert manifest.scheduler.timestep_spacing == "trailing"
        assert manifest.vae.scaling_factor == SCALING_FACTOR

    def test_lists_every_file_there_is_with_its_size_and_digest(self, random_bundle: Path) -> None:
        listed = Bundle.open(random_bundle).manifest.files
        found = digests(random_bundle)
        assert found.keys() == {*listed, MANIFEST_NAME}
        assert {path: entry.sha256 for path, entry in listed.items()}.items() <= found.items()
        assert all(e.bytes == (random_bundle / path).stat().st_size for path, e in listed.items())

    def test_both_tokenizers_share_one_file_and_keep_their_padding(
        self, manifest: Manifest
    ) -> None:
        tokenizers = manifest.tokenizers
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

    def test_licences_and_a_notice_travel(
        self, manifest: Manifest, random_bundle: Path, random_folder: Path
    ) -> None:
        copied, notice = (licence.file for licence in manifest.licences)
        assert copied == f"licences/{random_folder.name}/LICENSE.md"
        assert (random_bundle / copied).read_text() == (random_folder / "LICENSE.md").read_text()
        assert notice == "licences/NOTICE.md"
        rows = re.findall(
            r"^\| (\w+) \| ([\w-]+) \| - \|", (random_bundle / notice).read_text(), re.M
        )
        assert dict(rows) == dict.fromkeys(ROLES, random_folder.name)


def test_no_file_names_a_directory_of_the_machine_that_made_it(bundle: Bundle) -> None:
    known = [ROOT, Path.home(), Path(sys.prefix), DEMO_CHECKPOINT, Path(tempfile.gettempdir())]
    telling = [f"{path}/".encode() for path in known if len(path.parts) > 1]
    telling += [b"site-packages", b"/home/", b"/Users/", b"/usr/", b"torch/nn"]
    for path in [*bundle.manifest.files, MANIFEST_NAME]:
        content = (bundle.root / path).read_bytes()
        assert not [place for place in telling if place in content], path
