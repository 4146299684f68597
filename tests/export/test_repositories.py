"""Model files from the hub, a folder or a file; the hub is a real server on this machine."""

import contextlib
import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from diffusers import UNet2DModel
from fake_hub import FakeHub
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel

from lightfill.engine.errors import ExportError
from lightfill.export.hub import HubRepository
from lightfill.export.repositories import (
    LocalFile,
    LocalFolder,
    Repository,
    open_repository,
    weight_files,
)

MODEL = FakeHub.MODEL
OLD = {"model_index.json": b"{}", "unet/config.json": b"old", "unet/weights.bin": bytes(5000)}
NEW = {"model_index.json": b"{ }", "unet/config.json": b"new", "unet/other.bin": b"\1" * 5000}

WORD = st.text("azAZ09_", min_size=1, max_size=9)
NO_HUB_IDS = [
    *("", "name", "a/b/c", "/missing/folder", "./missing/folder", "./missing", "../a/b", "~/a"),
    *("a//b", "/a", "a/", "a/..", "a/.b", "-a/b", "a/b.git", "a--b/c", "a/b..c", "a b/c", "a/b\n"),
    *("\u00e9/b", "a/b@", "a/b@ ", "a/b@..", "a/b@/etc", "a/b@x/../y", "a/b@-x", "a/b@c@d"),
    *("C:\\models\\xl", "https://hub.example/a/b", "a/b\0", f"{'x' * 97}/b"),
]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "hub"


@pytest.fixture(scope="module", autouse=True)
def one_client() -> Iterator[None]:
    """The HTTP client, which takes long to make, is made and closed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        huggingface_hub.close_session()
        yield
        huggingface_hub.close_session()


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that this process talks to, waiting for nothing between retries."""
    with FakeHub() as hub:
        hub.commit(OLD)
        hub.serve_this_process(monkeypatch, cache)
        yield hub


def refusal(error: pytest.ExceptionInfo[ExportError]) -> str:
    """The message, after checking that it is one sentence that says what to do."""
    text = str(error.value)
    assert re.fullmatch(r"[^\n]+; [^\n]+[^.\n]", text), text
    return text


def refused_lookup(spec: str = MODEL, **options: Any) -> str:
    with pytest.raises(ExportError) as error:
        open_repository(spec, **options)
    assert error.value.__cause__ is not None
    return refusal(error)


def refused_fetch(repository: Repository, name: str) -> str:
    with pytest.raises(ExportError) as error:
        repository.fetch(name)
    return refusal(error)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


class TestWhatASpecMeans:
    @pytest.fixture(autouse=True)
    def no_lookups(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(HubRepository, "open", lambda *given, **options: (given, options))

    @pytest.mark.parametrize(
        ("spec", "revision", "name", "expected"),
        [
            ("stabilityai/stable-diffusion-xl-base-1.0", None, None, "main"),
            ("a/b", "v1.0", None, "v1.0"),
            ("a/b@v2", None, "a/b", "v2"),
            ("a/b@v2", "v1", "a/b", "v2"),
            ("a/b@refs/pr/3", None, "a/b", "refs/pr/3"),
            ("a_b/C.d-e@0123abc", None, "a_b/C.d-e", "0123abc"),
        ],
    )
    def test_owner_and_name_are_a_hub_id(
        self, spec: str, revision: str | None, name: str | None, expected: str
    ) -> None:
        found: Any = open_repository(spec, revision=revision, local_files_only=True)
        assert found == ((name or spec, expected), {"local_files_only": True})

    @pytest.mark.parametrize("spec", NO_HUB_IDS)
    def test_anything_else_is_refused(self, spec: str) -> None:
        with pytest.raises(ExportError) as error:
            open_repository(spec)
        assert "neither" in refusal(error) or "no revision" in refusal(error)

    @given(
        name=st.builds("{}.{}/{}-{}".format, WORD, WORD, WORD, WORD),
        revision=st.builds("{}/{}+{}".format, WORD, WORD, WORD),
    )
    def test_any_hub_id_keeps_its_revision(self, name: str, revision: str) -> None:
        found: Any = open_repository(f"{name}@{revision}", revision="ignored")
        assert found[0] == (name, revision)

    @given(st.one_of(st.text(), st.text("ab@/.:-~ \\\0\n")))
    def test_any_text_is_taken_or_refused(self, text: str) -> None:
        with contextlib.suppress(ExportError):
            open_repository(text)

    def test_an_existing_path_wins(self, tmp_path: Path) -> None:
        write(tmp_path, "owner/name/model_index.json", "owner/name@v1/x")
        for spec in ("owner/name", "./owner/name", Path("owner/name"), tmp_path / "owner/name"):
            found = open_repository(spec)
            assert isinstance(found, LocalFolder)
            assert (found.name, found.revision) == ("name", None)
        assert open_repository("owner/name@v1").name == "name@v1"

    def test_a_file_is_a_repository_of_itself(self, tmp_path: Path) -> None:
        write(tmp_path, "checkpoints/xl.safetensors")
        found = open_repository("checkpoints/xl.safetensors")
        assert isinstance(found, LocalFile)
        assert (found.name, found.revision) == ("xl.safetensors", None)
        assert found.files() == {"xl.safetensors"}
        assert found.fetch("xl.safetensors").read_text() == "checkpoints/xl.safetensors"
        assert "it has xl.safetensors" in refused_fetch(found, "xxl.safetensors")

    def test_folders_without_a_name_of_their_own(self, tmp_path: Path) -> None:
        write(tmp_path, "sub/x")
        assert open_repository(".").name == tmp_path.name
        assert open_repository("sub/..").name == tmp_path.name
        assert open_repository("/").name == "/"

    def test_a_path_object_is_never_a_hub_id(self) -> None:
        with pytest.raises(ExportError, match="neither an existing path"):
            open_repository(Path("owner/name"))

    def test_a_revision_of_local_files_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path, "owner/name/x")
        with pytest.raises(ExportError, match="which has no revision 'v1'; leave"):
            open_repository("owner/name", revision="v1")

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ExportError, match="neither a folder nor a regular file; pass"):
            open_repository("pipe")

    def test_a_path_that_the_system_refuses(self) -> None:
        with pytest.raises(ExportError, match=r"cannot be read .*; pass another"):
            open_repository("/" + "x" * 5000)


class TestALocalFolder:
    def test_lists_regular_files_and_follows_links(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "xl", "model_index.json", "unet/a", ".git/b", "unet/.cache/c")
        blobs = write(tmp_path / "blobs", "1234", "shared/d")
        (folder / "unet/link").symlink_to(blobs / "1234")
        (folder / "vae").symlink_to(blobs / "shared")
        (folder / "vae_1_0").symlink_to(blobs / "shared")
        (folder / "unet/up").symlink_to(folder)
        (folder / "broken").symlink_to(blobs / "none")
        os.mkfifo(folder / "pipe")
        found = open_repository(folder)
        assert found.files() == {"model_index.json", "unet/a", "unet/link", "vae/d", "vae_1_0/d"}
        assert found.fetch("unet/link").read_text() == "1234"
        assert found.fetch("vae_1_0/d").read_text() == "shared/d"

    def test_near_names_of_a_missing_file(self, tmp_path: Path) -> None:
        write(tmp_path, "unet/config.json", "unet/model.safetensors", "vae/config.json")
        text = refused_fetch(LocalFolder(tmp_path), "unet/model.fp16.safetensors")
        assert "no file 'unet/model.fp16.safetensors', it has unet/model.safetensors" in text
        assert "nor one like it among 3" in refused_fetch(LocalFolder(tmp_path), "README")

    @pytest.mark.parametrize("name", ["../secret", "unet/../../secret", "", ".", "unet", "./x"])
    def test_no_name_leads_out_of_it(self, name: str, tmp_path: Path) -> None:
        write(tmp_path, "secret")
        refused_fetch(LocalFolder(write(tmp_path / "model", "x", "unet/x")), name)

    def test_absolute_names_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path, "x")
        refused_fetch(LocalFolder(tmp_path), str(tmp_path / "x"))

    def test_a_folder_that_has_gone(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError) as error:
            LocalFolder(tmp_path / "gone").files()
        assert "cannot be read" in refusal(error)


class TestWeightFiles:
    @pytest.mark.parametrize(
        ("there", "expected"),
        [
            ("model.safetensors", "model.safetensors"),
            ("model.fp16.safetensors model.safetensors", "model.fp16.safetensors"),
            ("model.safetensors pytorch_model.fp16.bin", "model.safetensors"),
            ("pytorch_model.bin pytorch_model.fp16.bin", "pytorch_model.fp16.bin"),
            ("diffusion_pytorch_model.bin config.json", "diffusion_pytorch_model.bin"),
            (
                "model.safetensors diffusion_pytorch_model.safetensors",
                "diffusion_pytorch_model.safetensors",
            ),
            ("model.bin other/model.safetensors", "model.bin"),
        ],
    )
    @pytest.mark.parametrize("folder", ["", "unet", "unet/"])
    def test_single_files(self, folder: str, there: str, expected: str, tmp_path: Path) -> None:
        prefix = "unet/" if folder else ""
        write(tmp_path, *(prefix + name for name in there.split()))
        assert weight_files(LocalFolder(tmp_path), folder) == [prefix + expected]

    def test_full_precision_first_if_asked(self, tmp_path: Path) -> None:
        found = LocalFolder(write(tmp_path, "model.fp16.safetensors", "model.bin"))
        assert weight_files(found, "", prefer_half=False) == ["model.fp16.safetensors"]
        write(tmp_path, "model.safetensors")
        assert weight_files(found, "", prefer_half=False) == ["model.safetensors"]

    def test_other_stems(self, tmp_path: Path) -> None:
        found = LocalFolder(write(tmp_path, "sdxl_lightning.safetensors", "model.safetensors"))
        assert weight_files(found, "", stems=["sdxl_lightning"]) == ["sdxl_lightning.safetensors"]

    @pytest.mark.parametrize(
        "index",
        [
            "model.safetensors.index.fp16.json",
            "model.fp16.safetensors.index.json",
            "model.safetensors.fp16.index.json",
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
        ],
    )
    def test_shards_are_what_the_index_names(self, index: str, tmp_path: Path) -> None:
        write(tmp_path, "unet/a-1", "unet/a-2", "unet/a-3", f"unet/{index}")
        self.write_index(tmp_path / "unet" / index, {"x": "a-2", "y": "a-1", "z": "a-2"})
        assert weight_files(LocalFolder(tmp_path), "unet") == ["unet/a-1", "unet/a-2"]

    def test_half_shards_go_before_a_whole_file(self, tmp_path: Path) -> None:
        write(tmp_path, "model.safetensors", "half-1")
        self.write_index(tmp_path / "model.safetensors.index.fp16.json", {"x": "half-1"})
        assert weight_files(LocalFolder(tmp_path), "") == ["half-1"]

    @pytest.mark.parametrize("half", ["fp16", None])
    @pytest.mark.parametrize("shard", ["10KB", "1GB"])
    def test_whatever_diffusers_and_transformers_write(
        self, shard: str, half: str | None, tmp_path: Path
    ) -> None:
        blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
        sizes: dict[str, Any] = {"block_out_channels": (8,), "layers_per_block": 1}
        unet = UNet2DModel(sample_size=8, norm_num_groups=4, **sizes, **blocks)
        config = CLIPTextConfig(
            vocab_size=500,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=0,
            eos_token_id=1,
        )
        written = {"max_shard_size": shard, "variant": half}
        unet.save_pretrained(tmp_path / "unet", **written)
        unet.save_pretrained(tmp_path / "pickled", safe_serialization=False, **written)
        CLIPTextModel(config).save_pretrained(tmp_path / "text", **written)
        for folder in ("unet", "pickled", "text"):
            names = files_below(tmp_path / folder)
            weights = {f"{folder}/{name}" for name in names if not name.endswith(".json")}
            assert set(weight_files(LocalFolder(tmp_path), folder)) == weights
            assert (len(weights) > 1) == (shard == "10KB")

    def test_an_absent_shard(self, tmp_path: Path) -> None:
        self.write_index(tmp_path / "model.safetensors.index.json", {"x": "a-1", "y": "a-2"})
        text = self.refused(LocalFolder(write(tmp_path, "a-1")), "")
        assert "names 2 shards, of which 1 are absent (a-2)" in text

    @pytest.mark.parametrize(
        "content",
        [
            *(
                "",
                "[]",
                "{}",
                '{"weight_map": null}',
                '{"weight_map": ["a"]}',
                '{"weight_map": {}}',
            ),
            *('{"weight_map": {"x": 1}}', '{"weight_map": {"x": "../a"}}', "\xff"),
        ],
    )
    def test_a_damaged_index(self, content: str, tmp_path: Path) -> None:
        write(tmp_path, "a", "unet/a")
        (tmp_path / "unet/model.safetensors.index.json").write_text(content, encoding="latin-1")
        self.refused(LocalFolder(tmp_path), "unet")

    def test_none_found_says_what_is_there(self, tmp_path: Path) -> None:
        write(tmp_path, "vae/config.json", "vae/weights.ckpt", "unet/model.safetensors")
        text = self.refused(LocalFolder(tmp_path), "vae")
        assert "in vae/, only vae/config.json, vae/weights.ckpt;" in text
        assert "in text_encoder/, only nothing;" in self.refused(
            LocalFolder(tmp_path), "text_encoder"
        )

    @staticmethod
    def write_index(path: Path, weight_map: dict[str, str]) -> None:
        path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    @staticmethod
    def refused(repository: Repository, folder: str) -> str:
        with pytest.raises(ExportError) as error:
            weight_files(repository, folder)
        return refusal(error)


class TestTheHub:
    def test_files_come_from_the_commit_that_was_looked_up(self, hub: FakeHub) -> None:
        old = hub.branches["main"]
        found = open_repository(MODEL)
        assert (found.name, found.revision) == (MODEL, old)
        assert found.files() == set(OLD)
        assert found.fetch("model_index.json").read_bytes() == OLD["model_index.json"]
        new = hub.commit(NEW)
        assert found.fetch("unet/config.json").read_bytes() == b"old"
        assert found.fetch("unet/weights.bin").read_bytes() == OLD["unet/weights.bin"]
        fresh = open_repository(MODEL)
        assert (fresh.revision, fresh.files()) == (new, set(NEW))
        assert fresh.fetch("unet/config.json").read_bytes() == b"new"

    def test_a_branch_that_moves_during_the_lookup(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = hub._list

        def move_after(*given: Any) -> None:
            answer(*given)
            hub.commit(NEW)

        monkeypatch.setattr(hub, "_list", move_after)
        found = open_repository(MODEL)
        assert (found.revision, found.files()) == (hub.branches["main"], set(NEW))

    @pytest.mark.parametrize("form", ["argument", "suffix", "commit"])
    def test_a_revision(self, form: str, hub: FakeHub) -> None:
        old, new = hub.branches["main"], hub.commit(NEW, branch="next")
        revision = new if form == "commit" else "next"
        spec = {"spec": f"{MODEL}@{revision}"} if form == "suffix" else {"spec": MODEL}
        found = open_repository(**spec, revision=old if form == "suffix" else revision)
        assert found.revision == new
        assert found.fetch("unet/config.json").read_bytes() == b"new"

    def test_what_is_cached_is_not_requested_again(self, hub: FakeHub) -> None:
        path = open_repository(MODEL).fetch("unet/config.json")
        found = open_repository(MODEL)
        before = len(hub.requests)
        assert found.fetch("unet/config.json") == path
        assert len(hub.requests) == before

    def test_shards_are_found_through_their_index(self, hub: FakeHub) -> None:
        index = json.dumps({"weight_map": {"x": "s-1", "y": "s-2"}}).encode()
        name = "unet/diffusion_pytorch_model.safetensors.index.json"
        hub.commit({name: index, "unet/s-1": b"", "unet/s-2": b""})
        assert weight_files(open_repository(MODEL), "unet") == ["unet/s-1", "unet/s-2"]


class TestABrokenConnection:
    CONTENT = bytes(range(256)) * 40

    @pytest.fixture(autouse=True)
    def small_chunks(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            constants, "DOWNLOAD_CHUNK_SIZE", 1000
        )  # what a resume is a multiple of
        hub.commit({"weights": self.CONTENT})

    def downloads(self, hub: FakeHub) -> list[str | None]:
        return [request.range for request in hub.requests if request.method == "GET"][-2:]

    def test_is_resumed(self, hub: FakeHub, cache: Path) -> None:
        found = open_repository(MODEL)
        hub.cuts = [3500]
        assert found.fetch("weights").read_bytes() == self.CONTENT
        assert self.downloads(hub) == [None, "bytes=3000-"]
        assert_only_whole_files(cache)

    def test_for_good_leaves_nothing_behind(self, hub: FakeHub, cache: Path) -> None:
        found = open_repository(MODEL)
        hub.cuts = [3500] + [0] * 9
        text = refused_fetch(found, "weights")
        assert re.match(r"fetching weights of \S+ failed \(RemoteProtocolError: ", text)
        assert "--local-files-only" in text
        assert_only_whole_files(cache)
        hub.cuts = []
        assert found.fetch("weights").read_bytes() == self.CONTENT


def assert_only_whole_files(cache: Path) -> None:
    blobs = list((cache / f"models--{MODEL.replace('/', '--')}" / "blobs").iterdir())
    assert all(hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name for blob in blobs)
    names = {name for name in files_below(cache) if "/blobs/" not in name}
    notes = r"CACHEDIR\.TAG|\.locks/.*|models--[^/]+/(refs/main|snapshots/[0-9a-f]{40}/.*)"
    assert all(re.fullmatch(notes, name) for name in names), names


class TestWhatTheHubRefuses:
    def test_a_model_that_is_not_there(self, hub: FakeHub) -> None:
        text = refused_lookup("someone/misspelt")
        assert "no model someone/misspelt to you, and no local path" in text
        assert "check the spelling, or run `hf auth login`" in text

    def test_a_revision_that_is_not_there(self, hub: FakeHub) -> None:
        assert f"{MODEL} has no revision 'v9'; pass a" in refused_lookup(f"{MODEL}@v9")
        assert "no revision" in refused_lookup(revision="0" * 40)

    def test_a_file_that_is_not_there_is_not_asked_for(self, hub: FakeHub) -> None:
        found = open_repository(MODEL)
        before = len(hub.requests)
        text = refused_fetch(found, "unet/weights.safetensors")
        assert f"{MODEL} at commit {found.revision[:7]} has no file" in text
        assert "it has unet/weights.bin" in text
        refused_fetch(found, "../../secret")
        assert len(hub.requests) == before

    def test_a_gated_model(self, hub: FakeHub) -> None:
        hub.gated = True
        text = refused_fetch(open_repository(MODEL), "unet/weights.bin")
        assert f"{MODEL} is gated" in text
        assert "accept its licence on the model's page, then run `hf auth login`" in text

    def test_a_file_that_is_listed_and_gone(self, hub: FakeHub) -> None:
        hub.lost = {"unet/weights.bin"}
        text = refused_fetch(open_repository(MODEL), "unet/weights.bin")
        assert "pass another revision" in text

    @pytest.mark.parametrize(
        ("status", "advice"),
        [
            (400, "check HF_ENDPOINT"),
            (401, "your token is not valid"),
            (403, "use a token that may read this model"),
            (404, "check HF_ENDPOINT"),
            (429, "wait some minutes"),
            (500, "run again later"),
            (503, "run again later"),
        ],
    )
    def test_any_status(self, status: int, advice: str, hub: FakeHub) -> None:
        found = open_repository(MODEL)
        hub.status = status
        for text in (refused_lookup(), refused_fetch(found, "unet/weights.bin")):
            assert f"failed, the hub answered {status}; {advice}" in text

    def test_a_server_that_is_no_hub(self, hub: FakeHub) -> None:
        found = open_repository(MODEL)
        hub.status = 200  # to everything, as a captive portal
        for text in (refused_lookup(), refused_fetch(found, "unet/weights.bin")):
            assert "check HF_ENDPOINT" in text

    def test_a_hub_that_keeps_us_waiting(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lightfill.export.hub._ANSWER_SECONDS", 0.1)
        hub.delay = 0.5
        assert "ReadTimeout" in refused_lookup()

    @pytest.mark.parametrize("stage", ["lookup", "fetch"])
    def test_no_server_at_all(
        self, stage: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = open_repository(MODEL)
        nowhere = "http://127.0.0.1:1"
        template = f"{nowhere}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", nowhere)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        text = refused_lookup() if stage == "lookup" else refused_fetch(found, "unet/weights.bin")
        assert "ConnectError" in text
        assert "check the network" in text
        assert "--local-files-only" in text
        assert "copy the model's folder" in text


class TestWhatThisMachineRefuses:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), r"[\d,]+ bytes are free; .*HF_HOME"),
            (OSError(errno.EDQUOT, "Disk quota exceeded"), r"is full, .*; make room"),
            (RuntimeError("I/O error: No space left on device (os error 28)"), "is full, "),
            (PermissionError(errno.EACCES, "Permission denied"), "set HF_HOME to a folder"),
            (OSError("Consistency check failed"), "run again, and check"),
            (RuntimeError("xet: broken"), r"\(RuntimeError: xet: broken\); run again"),
            (ConnectionResetError("reset\nby peer"), r"reset by peer\); check the network"),
            (ModuleNotFoundError("No module named 'x'"), r"pip install 'lightfill\[export\]'"),
        ],
        ids=lambda given: type(given).__name__ if isinstance(given, Exception) else "",
    )
    def test_every_failure_is_ours_and_keeps_its_cause(
        self, error: Exception, expected: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = open_repository(MODEL)

        def fail(*_: Any, **__: Any) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
        with pytest.raises(ExportError, match=expected) as raised:
            found.fetch("unet/weights.bin")
        refusal(raised)
        assert raised.value.__cause__ is error

    def test_an_interrupt_is_let_through(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = open_repository(MODEL)

        def interrupt(*_: Any, **__: Any) -> str:
            raise KeyboardInterrupt

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", interrupt)
        with pytest.raises(KeyboardInterrupt):
            found.fetch("unet/weights.bin")

    def test_a_cache_that_cannot_be_made(self, hub: FakeHub, cache: Path) -> None:
        cache.parent.write_text("a file where the folder should be")
        text = refused_fetch(open_repository(MODEL), "unet/weights.bin")
        assert "HF_HOME" in text


class TestWithoutTheNetwork:
    def test_the_cache_answers_and_nothing_is_requested(self, hub: FakeHub) -> None:
        path = open_repository(MODEL).fetch("unet/config.json")
        old, _ = hub.branches["main"], hub.commit(NEW)
        before = len(hub.requests)
        found = open_repository(MODEL, local_files_only=True)
        assert (found.revision, found.files()) == (old, {"unet/config.json"})
        assert found.fetch("unet/config.json").samefile(path)
        assert open_repository(f"{MODEL}@{old}", local_files_only=True) == found
        text = refused_fetch(found, "unet/weights.bin")
        assert f"the cached {MODEL}" in text
        assert text.endswith("; run again without --local-files-only")
        assert len(hub.requests) == before

    def test_a_snapshot_that_hub_knows_to_be_partial(self, hub: FakeHub, cache: Path) -> None:
        found = open_repository(MODEL)
        path = found.fetch("unet/config.json")
        entries = {name: {"size": len(OLD[name]), "blob_id": "0"} for name in OLD}
        trees = cache / f"models--{MODEL.replace('/', '--')}" / "trees"
        trees.mkdir()
        tree = json.dumps({"format_version": 1, "files": entries})
        (trees / f"{found.revision}.json").write_text(tree)
        with pytest.raises(huggingface_hub.errors.IncompleteSnapshotError):
            huggingface_hub.snapshot_download(MODEL, cache_dir=cache, local_files_only=True)
        assert open_repository(MODEL, local_files_only=True).fetch("unet/config.json") == path

    @pytest.mark.parametrize("looked_up", [True, False])
    def test_nothing_cached(self, looked_up: bool, hub: FakeHub) -> None:
        if looked_up:
            open_repository(MODEL)
        before = len(hub.requests)
        text = refused_lookup(local_files_only=True)
        assert "not in the local cache; run again without --local-files-only" in text
        assert len(hub.requests) == before


SCRIPT = """
import sys
from lightfill.engine.errors import ExportError
from lightfill.export.repositories import open_repository

assert not {"huggingface_hub", "httpx2", "httpx", "torch"} & set(sys.modules)
try:
    found = open_repository(sys.argv[1], local_files_only=len(sys.argv) > 2)
    print(found.revision, found.fetch("unet/config.json").read_text(), *sorted(found.files()))
except ExportError as error:
    print(error)
"""


def test_a_process_of_its_own_online_then_offline(tmp_path: Path) -> None:
    """The environment variables as users set them, and nothing sent in offline mode."""

    def run(*arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT, *arguments],
            env=hub.environment(tmp_path / "home", **environment),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr  # not even a progress bar
        return done.stdout.strip()

    with FakeHub() as hub:
        commit = hub.commit(OLD)
        assert run(MODEL) == f"{commit} old {' '.join(sorted(OLD))}"
        (tmp_path / "home" / ".agent_harnesses.json").unlink(missing_ok=True)  # fetched in between
        hub.requests.clear()
        assert run(MODEL, HF_HUB_OFFLINE="1") == f"{commit} old unet/config.json"
        assert run(MODEL, "local files only") == f"{commit} old unet/config.json"
        assert run("some/other", HF_HUB_OFFLINE="1").endswith(
            "not in the local cache; unset HF_HUB_OFFLINE and run again with the network"
        )
        assert hub.requests == []
