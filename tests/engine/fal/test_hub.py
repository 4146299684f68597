"""Embeddings by hub id: which file is meant, what is refused, what works offline."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_hub import FakeHub
from huggingface_hub import constants
from safetensors.numpy import save

from lightfill.engine.errors import FileDownloadError, FileTooLarge
from lightfill.engine.fal import hub as hub_module
from lightfill.engine.fal.hub import fetch_embedding, is_hub_id
from lightfill.engine.textual_inversion import load_textual_inversion

MODEL = FakeHub.MODEL
FIELD = "embeddings.0.path"
VECTORS = save({"clip_l": np.ones((2, 32), np.float32), "clip_g": np.ones((2, 48), np.float32)})
OTHER = save({"clip_l": np.zeros((2, 32), np.float32), "clip_g": np.zeros((2, 48), np.float32)})
PICKLE = b"\x80\x04cposix\nsystem\n(S'true'\ntR."


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server:
        server.serve_this_process(monkeypatch, tmp_path / "hub")
        yield server


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    "text", ["owner/name", "o-w.n_er/na.me-1", "a/b/c.safetensors", "a/b/c/d.pti"]
)
def test_hub_ids_are_recognised(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "name", "/etc/passwd", "./a/b", "../a/b", "~/a", "", "a//b", "a/", "/a", "a b/c", "a/b ",
        "http://a/b", "file:///a/b", "data:x/y", "C:\\a/b", "a/b/c:d", "a/b\\c", "a/b\n",
        "\u00e4/b",
    ],
)  # fmt: skip
def test_other_texts_are_no_hub_ids(text: str) -> None:
    assert not is_hub_id(text)
    with pytest.raises(FileDownloadError, match="is no hub id; pass owner/name"):
        fetch_embedding(text, FIELD)


@pytest.mark.parametrize(
    ("files", "hub_id"),
    [
        ({"any.safetensors": VECTORS, "README.md": b"", "old.bin": PICKLE}, MODEL),
        ({"learned_embeds.safetensors": VECTORS, "lora.safetensors": OTHER}, MODEL),
        ({"a/embeddings.safetensors": VECTORS, "unet.safetensors": OTHER}, MODEL),
        ({"my_model_emb.safetensors": VECTORS, "pytorch_lora_weights.safetensors": OTHER}, MODEL),
        ({"embeddings.pti": VECTORS, "lora.safetensors": OTHER, "x.pt": PICKLE}, MODEL),
        (
            {"one.safetensors": OTHER, "deep/two.safetensors": VECTORS},
            f"{MODEL}/deep/two.safetensors",
        ),
    ],
)
def test_the_file_that_is_meant_is_found(
    hub: FakeHub, files: dict[str, bytes], hub_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(files)
    path = fetch_embedding(hub_id, FIELD)
    assert path.read_bytes() == VECTORS
    assert len(hub.fetched(MODEL)) == 1, "other files were downloaded too"
    assert load_textual_inversion(path).tokens == ("<s0>", "<s1>")
    asked = len(hub.requests)
    assert fetch_embedding(hub_id, FIELD).read_bytes() == VECTORS
    gets = [
        each for each in hub.requests[asked:] if each.method == "GET" and "resolve" in each.path
    ]
    assert not gets, "fetched twice"
    offline(monkeypatch)
    asked = len(hub.requests)
    assert fetch_embedding(f"{MODEL}/{path.relative_to(snapshot(path)).as_posix()}", FIELD) == path
    assert len(hub.requests) == asked, "asked the network while offline"


def snapshot(path: Path) -> Path:
    """The commit's folder in the cache: .../snapshots/COMMIT."""
    return next(parent for parent in path.parents if parent.parent.name == "snapshots")


@pytest.mark.parametrize(
    ("files", "hub_id", "message"),
    [
        ({"learned_embeds.bin": PICKLE}, MODEL, "has no safetensors file"),
        ({}, MODEL, "has no safetensors file"),
        ({"a.safetensors": OTHER, "b.safetensors": OTHER}, MODEL, "a.safetensors, b.safetensors"),
        ({"a.safetensors": OTHER}, f"{MODEL}/b.safetensors", "name one of those: a.safetensors"),
        ({"a.bin": PICKLE}, f"{MODEL}/a.bin", "name one of those: none"),
        ({"a.safetensors": OTHER}, f"{MODEL}/../a.safetensors", "name one of those"),
        ({"a.safetensors": OTHER}, "someone/else", "is no model the hub shows"),
        ({"a.safetensors": OTHER}, "some--one/else", "is no hub id"),
    ],
)
def test_what_is_not_there_is_said(
    hub: FakeHub, files: dict[str, bytes], hub_id: str, message: str
) -> None:
    hub.commit(files)
    with pytest.raises(FileDownloadError, match=message) as caught:
        fetch_embedding(hub_id, FIELD)
    assert caught.value.field == FIELD
    assert "\n" not in str(caught.value)
    assert not hub.fetched(MODEL)


def test_files_too_large_are_not_fetched(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MAX_BYTES", 1000)
    hub.commit({"a.safetensors": bytes(1001)})
    with pytest.raises(FileTooLarge, match="larger than"):
        fetch_embedding(MODEL, FIELD)
    assert not hub.fetched(MODEL)


def test_gated_models_are_explained(hub: FakeHub) -> None:
    hub.commit({"a.safetensors": VECTORS})
    hub.gated = True
    with pytest.raises(FileDownloadError, match="is gated; accept its licence"):
        fetch_embedding(MODEL, FIELD)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_in_trouble_is_reported(hub: FakeHub, status: int) -> None:
    hub.commit({"a.safetensors": VECTORS})
    hub.status = status
    with pytest.raises(FileDownloadError, match=rf"answered {status}\); check the network"):
        fetch_embedding(MODEL, FIELD)


def test_a_hub_that_is_gone_is_reported(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FileDownloadError, match="cannot be fetched from the hub"):
        fetch_embedding(MODEL, FIELD)


def test_offline_only_the_cache_answers(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit({"a.safetensors": VECTORS})
    offline(monkeypatch)
    with pytest.raises(FileDownloadError, match="not in the local cache; unset HF_HUB_OFFLINE"):
        fetch_embedding(MODEL, FIELD)
    assert not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fetched = fetch_embedding(MODEL, FIELD)
    asked = len(hub.requests)
    offline(monkeypatch)
    assert fetch_embedding(MODEL, FIELD) == fetched
    assert len(hub.requests) == asked


def test_without_huggingface_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileDownloadError, match=r"pip install 'lightfill\[hub\]'"):
        fetch_embedding(MODEL, FIELD)


@pytest.mark.parametrize(("token", "sent"), [(False, False), (None, True)])
def test_only_local_callers_use_this_machines_token(
    hub: FakeHub, token: bool | None, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.commit({"a.safetensors": VECTORS})
    fetch_embedding(MODEL, FIELD, token=token)
    assert {bool(each.authorization) for each in hub.requests} == {sent}
