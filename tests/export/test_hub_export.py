"""An export without options: what it fetches from the hub, what it makes, and how it fails."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import onnx
import pytest
import sdxl_hub
import torch
from fake_hub import FakeHub
from onnx import numpy_helper
from safetensors.torch import load_file
from sdxl_hub import BASE, FAST, VAE
from tiny_exports import digests

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import ExportError
from lightfill.export.bundle_writer import export_bundle
from lightfill.export.request import LIGHTNING, SDXL_BASE, VAE_FP16_FIX, ExportRequest

torch.set_num_threads(1)

QUICK: dict[str, Any] = {"arithmetics": ("float32",), "verify": False}
"""What no source depends on; all else is the default."""

SCRIPT = """
import json
import sys
from pathlib import Path

from lightfill.export.bundle_writer import export_bundle
from lightfill.export.request import ExportRequest

out, options = sys.argv[1:]
export_bundle(ExportRequest(out=Path(out), **json.loads(options)))
"""


@pytest.fixture(scope="module")
def hub(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        sdxl_hub.fill(hub, random_folder, tmp_path_factory.mktemp("hub"))
        yield hub


def export_in_a_process(hub: FakeHub, home: Path, out: Path, **options: Any) -> None:
    """With what a user's environment says, not with patched libraries."""
    command = [sys.executable, "-c", SCRIPT, str(out), json.dumps({**QUICK, **options})]
    ran = subprocess.run(
        command,
        env=hub.environment(home, HF_HUB_DISABLE_TELEMETRY="1"),
        cwd=out.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def exported(
    hub: FakeHub, home: Path, random_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All defaults but the number of step counts; the traces are there with `random_bundle`."""
    out = tmp_path_factory.mktemp("exported") / "lightning"
    export_in_a_process(hub, home, out, steps=[1, 4])
    return out


def counted(bundle: Path, component: str) -> list[float]:
    """What was added to the UNet's last bias, as its graph has it."""
    model = onnx.load(bundle / component / "float32.onnx")
    (found,) = (each for each in model.graph.initializer if each.name == sdxl_hub.COUNTED)
    return numpy_helper.to_array(found).astype(float).tolist()


@pytest.mark.slow  # needs the random bundle, whose traces take a minute, and a process of its own
class TestTheDefaults:
    def test_each_count_has_its_own_unet_and_prediction(
        self, exported: Path, random_folder: Path
    ) -> None:
        manifest = Bundle.open(exported).manifest
        assert {n: (step.component, step.prediction) for n, step in manifest.steps.items()} == {
            1: ("unet-1step", "sample"),
            4: ("unet-4step", "epsilon"),
        }
        weights = load_file(random_folder / "unet" / "diffusion_pytorch_model.safetensors")
        for count in (1, 4):
            wanted = (weights[sdxl_hub.COUNTED] + count).half().tolist()
            assert counted(exported, f"unet-{count}step") == wanted

    def test_every_part_is_recorded_with_its_commit(self, exported: Path) -> None:
        manifest = Bundle.open(exported).manifest
        commits = {
            name: f"{part.source.checkpoint}@{part.source.revision}"
            for name, part in manifest.components.items()
            if part.source
        }
        repository, _, commit = LIGHTNING.partition("@")
        assert commits == {
            "text_encoder": SDXL_BASE,
            "text_encoder_2": SDXL_BASE,
            "vae_encoder": VAE_FP16_FIX,
            "vae_decoder": VAE_FP16_FIX,
            **{
                f"unet-{count}step": f"{repository}/{sdxl_hub.unet_name(count)}@{commit}"
                for count in (1, 4)
            },
        }
        assert f"{manifest.source.checkpoint}@{manifest.source.revision}" == SDXL_BASE

    def test_other_parts_are_those_of_the_random_bundle(
        self, exported: Path, random_bundle: Path
    ) -> None:
        found, wanted = Bundle.open(exported).manifest.files, Bundle.open(random_bundle).manifest
        for path, entry in wanted.files.items():
            if not path.startswith(("unet/", "licences/")) and "float16" not in path:
                assert found[path] == entry, path

    def test_licences_travel(self, exported: Path) -> None:
        texts = {
            licence.file: (exported / licence.file).read_text()
            for licence in Bundle.open(exported).manifest.licences
        }
        notice = texts.pop("licences/NOTICE.md")
        assert all(source in notice for source in (BASE, FAST, VAE, "unet-4step"))
        mit = next(text for file, text in texts.items() if "LICENSE-sdxl-vae" in file)
        assert "MIT" in mit, "that repository has no file of it"
        assert {"licence of the base", "licence of Lightning", "about the VAE"} <= {*texts.values()}

    def test_only_what_is_needed_was_fetched(self, exported: Path, hub: FakeHub) -> None:
        assert hub.fetched(FAST) == {
            *(sdxl_hub.unet_name(count) for count in (1, 4)),
            *("LICENSE.md", "README.md"),
        }
        assert hub.fetched(VAE) == {
            *("config.json", "diffusion_pytorch_model.safetensors", "README.md")
        }
        assert hub.fetched(BASE) == {
            *("LICENSE.md", "README.md", "unet/config.json", "scheduler/scheduler_config.json"),
            *("text_encoder/config.json", "text_encoder/model.fp16.safetensors"),
            *("text_encoder_2/config.json", "text_encoder_2/model.fp16.safetensors"),
            *("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
            *("tokenizer_2/tokenizer.json", "tokenizer_2/tokenizer_config.json"),
        }
        others = {request.path for request in hub.requests}
        assert all(any(name in path for name in (BASE, FAST, VAE)) for path in others), others

    def test_without_the_network_the_cache_gives_the_same_bundle(
        self, exported: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with FakeHub() as gone:
            pass
        gone.serve_this_process(monkeypatch, home / "hub")
        again = tmp_path / exported.name
        export_bundle(ExportRequest(out=again, steps=(1, 4), local_files_only=True, **QUICK))
        assert digests(again) == digests(exported)


# --- in this process ------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def one_client() -> Iterator[None]:
    """The HTTP client, which takes long to make, is made and closed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        huggingface_hub.close_session()
        yield
        huggingface_hub.close_session()


@pytest.fixture
def online(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub, with an empty cache."""
    hub.serve_this_process(monkeypatch, tmp_path / "cache" / "hub")
    for changed, to in (("gated", False), ("lost", set()), ("models", dict(hub.models))):
        monkeypatch.setattr(hub, changed, to)
    monkeypatch.setattr(hub, "requests", [])
    return hub


def refused(out: Path, **options: Any) -> str:
    """The one sentence, after checking that nothing is left behind."""
    before = {path for path in out.parent.rglob("*") if "cache" not in path.parts}
    with pytest.raises(ExportError) as error:
        export_bundle(ExportRequest(out=out, **options))
    text = str(error.value)
    assert re.fullmatch(r"[^\n]+; [^\n]+[^.\n]", text), text
    assert {path for path in out.parent.rglob("*") if "cache" not in path.parts} == before
    return text


class TestRefused:
    def test_a_gated_model(self, online: FakeHub, tmp_path: Path) -> None:
        online.gated = True
        assert re.match(f"({BASE}|{VAE}) is gated and not open", refused(tmp_path / "out"))

    def test_a_missing_base(self, online: FakeHub, tmp_path: Path) -> None:
        del online.models[BASE]
        assert f"the hub shows no model {BASE} to you" in refused(tmp_path / "out")

    def test_a_pinned_commit_that_is_gone(self, online: FakeHub, tmp_path: Path) -> None:
        text = refused(tmp_path / "out", base=f"{BASE}@{'0' * 40}")
        assert f"{BASE} has no revision" in text

    def test_a_count_that_lightning_has_no_file_for(self, online: FakeHub, tmp_path: Path) -> None:
        text = refused(tmp_path / "out", steps=(4, 6))
        assert f"{FAST} has no sdxl_lightning_6step_unet.safetensors (it has " in text
        assert text.endswith("; pass --unet 6=SOURCE, or leave 6 out of --steps")
        assert online.fetched(FAST) == set(), "5 GB that would not help"

    def test_a_file_that_is_listed_and_gone(self, online: FakeHub, tmp_path: Path) -> None:
        online.lost = {sdxl_hub.unet_name(4)}
        assert "pass another revision" in refused(tmp_path / "out", steps=(4,))

    def test_no_network(
        self, online: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with FakeHub() as gone:
            pass
        gone.serve_this_process(monkeypatch, tmp_path / "cache" / "hub")
        text = refused(tmp_path / "out")
        assert text.startswith(f"looking up {BASE} failed (ConnectError")
        assert "check the network and run again, pass --local-files-only if" in text

    def test_an_empty_cache(self, online: FakeHub, tmp_path: Path) -> None:
        text = refused(tmp_path / "out", local_files_only=True)
        assert "not in the local cache; run again without --local-files-only" in text
        assert online.requests == []


@pytest.mark.slow  # needs the random bundle, whose traces take a minute
class TestAdding:
    @pytest.fixture
    def bundle(self, exported: Path, tmp_path: Path) -> Path:
        return shutil.copytree(exported, tmp_path / "lightning")

    def test_a_count_needs_lightning_s_repository_only(
        self, bundle: Path, exported: Path, online: FakeHub, random_folder: Path
    ) -> None:
        before = digests(exported)
        request = ExportRequest(out=bundle, steps=(4, 8), config=random_folder, **QUICK)
        report = export_bundle(request)
        assert [part.name for part in report.components if part.made] == ["unet-8step"]
        assert online.fetched(FAST) == {sdxl_hub.unet_name(8), "LICENSE.md", "README.md"}
        assert all(FAST in request.path for request in online.requests)
        manifest = Bundle.open(bundle, check=True).manifest
        assert manifest.steps.keys() == {1, 4, 8}
        assert counted(bundle, "unet-8step") != counted(bundle, "unet-4step")
        after = digests(bundle)
        kept = before.keys() - {"lightfill.json"}
        assert {path: after[path] for path in kept} == {path: before[path] for path in kept}

    def test_without_the_tiny_configuration_the_shapes_do_not_fit(
        self, bundle: Path, online: FakeHub
    ) -> None:
        text = refused(bundle, steps=(8,), **QUICK)
        assert "sdxl_lightning_8step_unet.safetensors" in text
        assert text.endswith("; pass a whole SDXL checkpoint, and --config if it has another shape")

    def test_counts_that_are_there_need_no_hub(self, bundle: Path, online: FakeHub) -> None:
        before = digests(bundle)
        export_bundle(ExportRequest(out=bundle, steps=(1, 4), **QUICK))
        assert online.requests == []
        assert digests(bundle) == before
