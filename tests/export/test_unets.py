"""Every way to name a UNet or a VAE beside the base gives that one, for the counts it is for."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import layouts
import original_layout
import pytest
import random_checkpoint
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightfill.engine.bundle import DEMO_BUNDLE, Bundle
from lightfill.engine.errors import ExportError
from lightfill.export.base import DiffusersBase
from lightfill.export.bundle_writer import export_bundle
from lightfill.export.licences import write_licences
from lightfill.export.part import Part
from lightfill.export.plan import Plan, make_addition, make_plan
from lightfill.export.repositories import LocalFolder, Repository
from lightfill.export.request import ExportRequest
from lightfill.export.unets import Unet, resolve_unets
from lightfill.scheduler import Prediction

torch.set_num_threads(1)

Tensors = dict[str, Tensor]
X0 = "sdxl_lightning_1step_unet_x0.safetensors"


@pytest.fixture(scope="module")
def unet_tensors(random_folder: Path) -> Tensors:
    return load_file(layouts.weights_file(random_folder, "unet"))


@pytest.fixture(scope="module")
def original(random_folder: Path) -> dict[str, Tensors]:
    """The UNet's and the VAE's tensors by original keys, without prefix."""
    pipeline = layouts.load_pipeline(random_folder, torch.float16)
    return {
        "unet": original_layout.original_unet(pipeline.unet),
        "vae": original_layout.original_vae(pipeline.vae),
    }


@pytest.fixture(scope="module")
def base_file(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint whose VAE and UNet are not the ones the tests look for."""
    file = layouts.diffusers_file(random_folder, tmp_path_factory.mktemp("base") / "folder")
    tensors = load_file(file)
    others = {key: each + 1 for key, each in tensors.items() if key.startswith(("unet.", "vae."))}
    save_file({**tensors, **others}, file)
    return file


def write(path: Path, tensors: Mapping[str, Tensor], prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {f"{prefix}{key}": each.contiguous() for key, each in tensors.items()}
    if path.suffix == ".bin":
        torch.save(contiguous, path)
    else:
        save_file(contiguous, path)
    return path


def resolve(folder: Path, unets: Mapping[int | None, Any], *steps: int) -> list[Unet]:
    request = ExportRequest(out=Path("unused"), base=folder, unets=unets, steps=steps)
    licensed: list[Repository] = []
    found = resolve_unets(request, DiffusersBase(LocalFolder(folder)), steps, licensed)
    assert {files.name for files in licensed} == {Path(source).name for source in unets.values()}
    return found


def planned(base: Path, config: Path, **options: Any) -> tuple[Plan, dict[str, Part]]:
    plan = make_plan(ExportRequest(out=Path("unused"), base=base, config=config, **options))
    return plan, {part.name: part for part in plan.parts}


def assert_read(weights: Any, wanted: Tensors) -> None:
    shapes = weights.shapes()
    assert {key: shapes[key] for key in wanted} == {k: tuple(t.shape) for k, t in wanted.items()}
    for key in list(wanted)[::11]:
        assert torch.equal(weights.read(key), wanted[key]), key


SOURCES = (
    "folder", "pipeline folder", "diffusers file", "prefixed diffusers file", "pickle",
    "original file", "prefixed original file", "whole original file",
)  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_any_kind_of_source(
    kind: str,
    random_folder: Path,
    unet_tensors: Tensors,
    original: dict[str, Tensors],
    tmp_path: Path,
) -> None:
    theirs = original["unet"]
    source = {
        "folder": lambda: random_folder / "unet",
        "pipeline folder": lambda: random_folder,
        "diffusers file": lambda: write(tmp_path / "a.safetensors", unet_tensors),
        "prefixed diffusers file": lambda: write(tmp_path / "a.safetensors", unet_tensors, "unet."),
        "pickle": lambda: write(tmp_path / "a.bin", unet_tensors),
        "original file": lambda: write(tmp_path / "a.safetensors", theirs),
        "prefixed original file": lambda: write(
            tmp_path / "a.safetensors", theirs, "model.diffusion_model."
        ),
        "whole original file": lambda: layouts.original_file(random_folder, tmp_path / "whole"),
    }[kind]()
    (unet,) = resolve(random_folder, {None: source}, 2, 4)
    assert (unet.name, unet.steps) == ("unet-2-4step", (2, 4))
    assert (unet.source.checkpoint, unet.source.revision) == (source.name, None)
    assert unet.prediction is None, "only the scheduler says it"
    assert_read(unet.weights, unet_tensors)


def test_every_step_count_gets_the_source_named_for_it(
    random_folder: Path, unet_tensors: Tensors, tmp_path: Path
) -> None:
    def source(name: str, shift: int) -> tuple[Path, Tensors]:
        shifted = {key: tensor + shift for key, tensor in unet_tensors.items()}
        return write(tmp_path / name, shifted), shifted

    (one, ones), (four, fours) = source("1.safetensors", 1), source("4step.safetensors", 4)
    (others, rest) = source("others.safetensors", 9)
    unets = resolve(random_folder, {4: four, 1: one, None: others}, 8, 4, 2, 1)
    assert [(unet.name, set(unet.steps)) for unet in unets] == [
        ("unet-2-8step", {2, 8}),
        ("unet-4step", {4}),
        ("unet-1step", {1}),
    ]
    for unet, wanted in zip(unets, (rest, fours, ones), strict=True):
        assert_read(unet.weights, wanted)


def test_counts_without_a_source_get_the_base_s_own(
    random_folder: Path, unet_tensors: Tensors, tmp_path: Path
) -> None:
    other = {key: tensor + 1 for key, tensor in unet_tensors.items()}
    file = write(tmp_path / "other.safetensors", other)
    unets = resolve(random_folder, {2: file}, 1, 2, 4)
    assert [(unet.name, unet.steps) for unet in unets] == [("unet", (1, 4)), ("unet-2step", (2,))]
    assert_read(unets[0].weights, unet_tensors)
    assert_read(unets[1].weights, other)


@pytest.fixture
def lightning(unet_tensors: Tensors, tmp_path: Path) -> Path:
    """A folder with two of SDXL-Lightning's files, told apart by what was added to them."""
    for count, name in ((1, X0), (4, "sdxl_lightning_4step_unet.safetensors")):
        shifted = {key: tensor + count for key, tensor in unet_tensors.items()}
        write(tmp_path / "SDXL-Lightning" / name, shifted)
    write(tmp_path / "SDXL-Lightning" / "sdxl_lightning_4step_lora.safetensors", {})
    return tmp_path / "SDXL-Lightning"


def test_a_folder_of_lightning_s_files_serves_each_count_with_its_own(
    random_folder: Path, lightning: Path, unet_tensors: Tensors
) -> None:
    unets = resolve(random_folder, {None: lightning}, 1, 4)
    assert [(unet.name, unet.prediction) for unet in unets] == [
        ("unet-1step", Prediction.SAMPLE),
        ("unet-4step", Prediction.EPSILON),
    ]
    assert unets[0].source.checkpoint == f"SDXL-Lightning/{X0}"
    for unet, count in zip(unets, (1, 4), strict=True):
        assert_read(unet.weights, {key: each + count for key, each in unet_tensors.items()})
    with pytest.raises(ExportError) as refused:
        resolve(random_folder, {None: lightning}, 1, 8)
    assert str(refused.value) == (
        f"SDXL-Lightning has no sdxl_lightning_8step_unet.safetensors (it has {X0}, "
        "sdxl_lightning_4step_unet.safetensors); pass --unet 8=SOURCE, or leave 8 out of --steps"
    )


@pytest.mark.parametrize(
    ("name", "steps", "refused"),
    [
        ("sdxl_lightning_4step_unet.safetensors", (8,), "for 4 steps, asked to serve 8; pass"),
        ("sdxl_lightning_4step_unet.safetensors", (4, 8), "asked to serve 4, 8"),
        ("mine-8-steps.safetensors", (4,), "for 8 steps"),
        ("Mine_2Step.safetensors", (1,), "for 2 steps"),
        ("mine-8-steps.safetensors", (8,), ""),
        ("mine-20000steps.safetensors", (4,), ""),  # it was trained for so many
        ("mine-2stepped.safetensors", (4,), ""),
    ],
)
def test_a_file_named_for_another_count_is_refused(
    name: str,
    steps: tuple[int, ...],
    refused: str,
    random_folder: Path,
    unet_tensors: Tensors,
    tmp_path: Path,
) -> None:
    file = write(tmp_path / name, unet_tensors)
    if not refused:
        assert resolve(random_folder, {None: file}, *steps)[0].steps == steps
        return
    with pytest.raises(ExportError, match=refused):
        resolve(random_folder, {None: file}, *steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 9}, "not a 4-channel SDXL UNet"),
        ({"addition_embed_type": None}, "not a 4-channel SDXL UNet"),
        ({"cross_attention_dim": 64}, r"to_k.weight has shape .*, the configuration of unet-4step"),
    ],
)
def test_a_unet_that_does_not_fit_is_refused(
    changes: dict[str, Any], message: str, random_folder: Path, base_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(random_folder / "unet", tmp_path / "unet")
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ExportError, match=message):
        planned(base_file, random_folder, unets={4: tmp_path / "unet"}, steps=(4,))


def test_predictions_come_from_the_option_the_file_or_the_scheduler_in_this_order(
    random_folder: Path, base_file: Path, lightning: Path, unet_tensors: Tensors, tmp_path: Path
) -> None:
    config = layouts.without_weights(random_folder, tmp_path / "config")
    path = config / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    unets: dict[int | None, Path] = {
        1: lightning / X0,
        2: write(tmp_path / "mine.safetensors", unet_tensors),
        3: random_folder / "unet",
        4: lightning / "sdxl_lightning_4step_unet.safetensors",
        8: write(tmp_path / "mine_x0.safetensors", unet_tensors),
    }
    steps, epsilon = (1, 2, 3, 4, 5, 8), Prediction.EPSILON
    plan, _ = planned(base_file, config, unets=unets, steps=steps, predictions={8: epsilon})
    assert {count: step.prediction for count, step in plan.steps.items()} == {
        1: "sample", 2: "v_prediction", 3: "v_prediction", 4: "epsilon", 5: "v_prediction",
        8: "epsilon",
    }  # fmt: skip
    given = {None: epsilon, 8: Prediction.SAMPLE}
    plan, _ = planned(base_file, config, unets={1: unets[1]}, steps=(1, 8), predictions=given)
    assert {n: step.prediction for n, step in plan.steps.items()} == {1: "epsilon", 8: "sample"}


@pytest.mark.parametrize(
    "kind", ["folder", "pipeline folder", "diffusers file", "original file", "prefixed file"]
)
def test_a_vae_from_any_kind_of_source(
    kind: str, random_folder: Path, base_file: Path, original: dict[str, Tensors], tmp_path: Path
) -> None:
    wanted = load_file(layouts.weights_file(random_folder, "vae"))
    source = {
        "folder": lambda: random_folder / "vae",
        "pipeline folder": lambda: random_folder,
        "diffusers file": lambda: write(tmp_path / "a.safetensors", wanted),
        "original file": lambda: write(tmp_path / "a.safetensors", original["vae"]),
        "prefixed file": lambda: write(
            tmp_path / "a.safetensors", original["vae"], "first_stage_model."
        ),
    }[kind]()
    plan, parts = planned(base_file, random_folder, vae=source, steps=(4,))
    for role in ("vae_encoder", "vae_decoder"):
        assert_read(parts[role].weights, wanted)
        assert parts[role].source.checkpoint == source.name
    assert parts["unet"].source.checkpoint == base_file.name
    assert source.name in {files.name for files in plan.licensed}


def test_what_a_unet_added_to_another_kind_predicts_is_not_guessed() -> None:
    manifest = Bundle.open().manifest  # v_prediction
    folder = random_checkpoint.DEMO_CHECKPOINT / "unet"

    def added(**options: Any) -> Prediction:
        request = ExportRequest(out=DEMO_BUNDLE, steps=(3,), unets={3: folder}, **options)
        return make_addition(request, manifest).steps[3].prediction

    with pytest.raises(
        ExportError, match=r"nothing says what unet predicts, .*--prediction 3=KIND$"
    ):
        added()
    assert added(predictions={3: Prediction.EPSILON}) is Prediction.EPSILON
    assert added(config=random_checkpoint.DEMO_CHECKPOINT) is Prediction.V_PREDICTION


def test_two_folders_of_one_name_keep_both_licences(
    base_file: Path, random_folder: Path, tmp_path: Path
) -> None:
    folders = []
    for place in ("one", "other"):
        folder = tmp_path / place / "model"
        shutil.copytree(random_folder, folder)
        (folder / "LICENSE").write_text(f"of {place}")
        folders.append(folder)
    one, other = folders
    plan = make_plan(ExportRequest(out=tmp_path / "out", base=one, vae=other, steps=(4,)))
    entries = write_licences(tmp_path / "bundle", plan.licensed)
    texts = {(tmp_path / "bundle" / each.file).read_text() for each in entries}
    assert {"of one", "of other"} <= texts
    assert len(plan.licensed) == 2


def test_a_configuration_that_would_not_be_used_is_refused(random_folder: Path) -> None:
    with pytest.raises(ExportError, match=r"has configurations of its own, .*; leave --config out"):
        planned(random_folder, random_folder)


@pytest.mark.slow  # needs the random bundle, whose traces take a minute
def test_a_bundle_of_parts_from_everywhere(
    random_folder: Path,
    random_bundle: Path,
    base_file: Path,
    lightning: Path,
    original: dict[str, Tensors],
    tmp_path: Path,
) -> None:
    request = ExportRequest(
        out=tmp_path / "bundle",
        base=base_file,
        config=random_folder,
        steps=(1, 4),
        unets={1: lightning / X0, 4: write(tmp_path / "mine.safetensors", original["unet"])},
        vae=write(tmp_path / "vae.safetensors", original["vae"]),
        arithmetics=("float32",),
        verify=False,
    )
    export_bundle(request)
    found, wanted = Bundle.open(request.out).manifest, Bundle.open(random_bundle).manifest
    assert {count: (step.component, step.prediction) for count, step in found.steps.items()} == {
        1: ("unet-1step", "sample"),
        4: ("unet-4step", "epsilon"),
    }

    def digests(manifest: Any, component: str) -> list[str]:
        names = ("weights.bin", "float32.onnx")
        return [manifest.files[f"{component}/{name}"].sha256 for name in names]

    for role in ("text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder"):
        assert digests(found, role) == digests(wanted, role)
    assert digests(found, "unet-4step") == digests(wanted, "unet")
    assert digests(found, "unet-1step")[0] != digests(wanted, "unet")[0]
