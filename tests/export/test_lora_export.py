"""A bundle with LoRAs merged in paints what diffusers paints with the same LoRAs fused."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import random_lora
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from pictures import Pixels, diffusers_picture, largest_difference, our_picture, photo, soft_mask
from random_lora import ROLES
from tiny_exports import digests

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import ExportError
from lightfill.engine.pipeline import Inpainter
from lightfill.export.bundle_writer import export_bundle
from lightfill.export.lora import Lora
from lightfill.export.request import ExportRequest

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.slow,  # needs the random bundle, whose traces take a minute
    # peft: loading a second LoRA beside the first is what is compared here
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]

SIZES = ((64, 64), (96, 160))
ATTENTION = r"to_[qkv]$|to_out|[qkv]_proj|out_proj"
FLOAT32: dict[str, Any] = {"weights": "float32", "arithmetics": ("float32",)}


def load(folder: Path) -> StableDiffusionXLInpaintPipeline:
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, low_cpu_mem_usage=False,
        add_watermarker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def fused(folder: Path, loras: Sequence[Lora]) -> StableDiffusionXLInpaintPipeline:
    pipeline = load(folder)
    names = [f"lora{index}" for index in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        pipeline.load_lora_weights(lora.path, adapter_name=name)
    pipeline.set_adapters(names, [lora.scale for lora in loras])
    pipeline.fuse_lora(adapter_names=names)
    pipeline.unload_lora_weights()
    return pipeline


def theirs(pipeline: StableDiffusionXLInpaintPipeline, size: tuple[int, int], steps: int) -> Pixels:
    given = {"image": photo(), "mask": soft_mask()}
    return diffusers_picture(pipeline, size, steps=steps, strength=1.0, **given)


@pytest.fixture(scope="module")
def plain(random_folder: Path) -> StableDiffusionXLInpaintPipeline:
    return load(random_folder)


@pytest.fixture(scope="module")
def files(
    plain: StableDiffusionXLInpaintPipeline, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """LoRAs of the two common layouts, for all three parts and for some."""
    folder = tmp_path_factory.mktemp("loras")

    def pairs(only: str, rank: int, alpha: float | None) -> list[random_lora.Pair]:
        return random_lora.pairs(plain, only=only, rank=rank, alpha=lambda _: alpha, seed=rank)

    every = f"^(unet.*(attn|conv1|ff|time_emb)|text.*({ATTENTION}|fc))"
    some = f"^(unet.*(attn2|conv2)|text_encoder_2.*({ATTENTION}))"
    tensors = {
        "kohya": random_lora.kohya_sgm(pairs(every, 2, 1.0)),
        "peft": random_lora.peft(pairs(some, 4, None)),
        "unet": random_lora.kohya_sgm(pairs("^unet.*attn1", 3, 3.0)),
    }
    return {
        name: random_lora.write(folder / f"{name} style.safetensors", file)
        for name, file in tensors.items()
    }


def exported(out: Path, folder: Path, loras: Sequence[Lora], **options: Any) -> Bundle:
    request = ExportRequest(
        out=out, base=folder, loras=loras, steps=(1, 4), natural_size=64,
        **{"verify": False, **options},
    )  # fmt: skip
    export_bundle(request)
    return Bundle.open(out)


def assert_same_pictures(
    bundle: Bundle, fused: StableDiffusionXLInpaintPipeline, plain: StableDiffusionXLInpaintPipeline
) -> None:
    with Inpainter(bundle) as inpainter:
        for size in SIZES:
            for steps in (1, 4):
                wanted = theirs(fused, size, steps)
                assert wanted.std() > 15, "equal grey pictures would prove nothing"
                assert largest_difference(wanted, theirs(plain, size, steps)) > 20
                assert largest_difference(our_picture(inpainter, size, steps=steps), wanted) <= 1


def test_one_lora_for_every_part_gives_the_pictures_of_diffusers(
    plain: StableDiffusionXLInpaintPipeline,
    files: dict[str, Path],
    random_folder: Path,
    random_bundle: Path,
    tmp_path: Path,
) -> None:
    before = digests(random_folder), digests(random_bundle), digests(files["kohya"].parent)
    loras = [Lora(files["kohya"], 0.3)]
    bundle = exported(tmp_path / "bundle", random_folder, loras, **FLOAT32)
    assert_same_pictures(bundle, fused(random_folder, loras), plain)
    after = digests(random_folder), digests(random_bundle), digests(files["kohya"].parent)
    assert before == after


@pytest.fixture(scope="module")
def two(files: dict[str, Path]) -> list[Lora]:
    return [Lora(files["unet"], 0.4), Lora(files["peft"], -0.25)]


@pytest.fixture(scope="module")
def bundle_with_two(
    two: list[Lora],
    random_folder: Path,
    random_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """Stored as float16, with both graphs, and verified."""
    out = tmp_path_factory.mktemp("two") / "bundle"
    return exported(out, random_folder, two, verify=True)


def test_two_loras_in_float16(
    bundle_with_two: Bundle,
    two: list[Lora],
    plain: StableDiffusionXLInpaintPipeline,
    random_folder: Path,
) -> None:
    rounded = fused(random_folder, two)
    for role in ROLES:  # sums are stored as float16; diffusers' are rounded here
        for parameter in getattr(rounded, role).parameters():
            parameter.data = parameter.data.half().float()
    assert_same_pictures(bundle_with_two, rounded, plain)


def test_the_manifest_says_what_was_merged_into_which_part(
    bundle_with_two: Bundle, two: list[Lora], random_bundle: Path
) -> None:
    unet, peft = (
        (lora.path.name, hashlib.sha256(lora.path.read_bytes()).hexdigest(), lora.scale)
        for lora in two
    )
    manifest = bundle_with_two.manifest
    assert {
        name: [(lora.file, lora.sha256, lora.scale) for lora in part.loras]
        for name, part in manifest.components.items()
    } == {
        "text_encoder": [],
        "text_encoder_2": [peft],
        "vae_encoder": [],
        "vae_decoder": [],
        "unet": [unet, peft],
    }
    for part in manifest.components.values():
        assert {each.arithmetic for each in part.verification} == {"float32", "float16"}
        assert all(each.passed for each in part.verification)
    notice = (bundle_with_two.root / "licences/NOTICE.md").read_text()
    assert "LoRA unet style.safetensors x 0.4, LoRA peft style.safetensors x -0.25" in notice
    plain = Bundle.open(random_bundle).manifest.files
    different = {
        path.partition("/")[0]
        for path, entry in manifest.files.items()
        if "licences" not in path and entry != plain[path]
    }
    assert different == {"unet", "text_encoder_2"}


class TestOntoAPlainBundle:
    @pytest.fixture
    def bundle(self, random_bundle: Path, tmp_path: Path) -> Path:
        return shutil.copytree(random_bundle, tmp_path / "bundle")

    def refused(self, bundle: Path, **options: Any) -> str:
        before = digests(bundle.parent)
        with pytest.raises(ExportError) as error:
            export_bundle(ExportRequest(out=bundle, verify=False, **options))
        assert digests(bundle.parent) == before
        return str(error.value)

    @pytest.mark.parametrize("name", ["unet", "kohya"])
    def test_a_part_that_would_change_is_refused(
        self, name: str, bundle: Path, files: dict[str, Path], random_folder: Path
    ) -> None:
        changed = "unet" if name == "unet" else "text_encoder"
        text = self.refused(bundle, base=random_folder, loras=[Lora(files[name])])
        assert f"has another {changed} (other weights, configuration, LoRAs or precision)" in text
        assert text.endswith("; choose another --out")

    @pytest.mark.parametrize("name", ["peft", "kohya"])
    def test_a_lora_for_text_encoders_cannot_be_added(
        self, name: str, bundle: Path, files: dict[str, Path], random_folder: Path
    ) -> None:
        text = self.refused(bundle, steps=(3,), loras=[Lora(files[name])], config=random_folder)
        assert "a LoRA changes the text encoders, which this bundle already has" in text
        assert text.endswith("; name the --base to export a new bundle from, and another --out")

    def test_a_count_that_is_served_keeps_its_unet(
        self, bundle: Path, files: dict[str, Path], random_folder: Path
    ) -> None:
        given = {"unets": {None: random_folder}, "config": random_folder}
        text = self.refused(bundle, steps=(4,), loras=[Lora(files["unet"])], **given)
        assert "serves 4 steps with another UNet" in text

    def test_a_unet_with_a_lora_is_added_for_another_count(
        self, bundle: Path, files: dict[str, Path], random_folder: Path
    ) -> None:
        before = Bundle.open(bundle).manifest
        given: dict[str, Any] = {"unets": {3: random_folder}, "config": random_folder}
        lora = Lora(files["unet"], 0.5)
        export_bundle(ExportRequest(out=bundle, steps=(3,), loras=[lora], verify=False, **given))
        manifest = Bundle.open(bundle, check=True).manifest
        assert manifest.steps[3].component == "unet-3step"
        (applied,) = manifest.components["unet-3step"].loras
        assert (applied.file, applied.scale) == ("unet style.safetensors", 0.5)
        assert {path: manifest.files[path] for path in before.files} == dict(before.files)
        assert manifest.components["unet"] == before.components["unet"]
