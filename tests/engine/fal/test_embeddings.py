"""Embeddings of a request end to end: local path, URL, data URI, stored file and hub id."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_hub import FakeHub
from huggingface_hub import constants
from PIL import Image
from safetensors.numpy import save

import lightfill.fal
from lightfill import Embedding, Inpainter
from lightfill.engine.errors import FileDownloadError, FileTooLarge, InvalidInput
from lightfill.engine.fal import embeddings, runtime
from lightfill.engine.fal.embeddings import resolved
from lightfill.engine.fal.endpoint import Endpoint
from lightfill.engine.fal.files import Files
from lightfill.engine.fal.schema import Embedding as WireEmbedding
from lightfill.engine.fal.schema import error_body
from lightfill.engine.fal.service import APPLICATION
from lightfill.engine.fal.settings import Settings


def vectors(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    widths = {"clip_l": 32, "clip_g": 48}
    return save({key: random.normal(size=(2, n)).astype(np.float32) for key, n in widths.items()})


VECTORS = vectors(0)
PICKLE = b"\x80\x04cposix\nsystem\n(S'true'\ntR."
PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def data_uri(data: bytes, kind: str = "application/octet-stream") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(pixels: np.ndarray) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "image/png")


REQUEST: dict[str, Any] = {
    "image_url": png(PHOTO),
    "mask_url": png(np.full((64, 64), 255, np.uint8)),
    "prompt": "a ball like <s0><s1>",
    "image_size": {"width": 64, "height": 64},
    "num_inference_steps": 2,
    "strength": 1,
    "seed": 3,
    "format": "png",
    "enable_safety_checker": False,
}


@pytest.fixture
def server() -> Iterator[str]:
    """Serves VECTORS at /good.safetensors, a pickle at /bad.bin, and a redirect to the first."""
    bodies = {"/good.safetensors": VECTORS, "/bad.bin": PICKLE}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/good.safetensors")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = bodies.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as model_hub:
        model_hub.serve_this_process(monkeypatch, tmp_path / "hub")
        model_hub.commit({"learned_embeds.safetensors": VECTORS})
        yield model_hub


def settings_in(folder: Path, **more: Any) -> Settings:
    return Settings(data_dir=folder / "data", **more)


@pytest.fixture
def open_settings(tmp_path: Path) -> Settings:
    """For tests whose URLs lead to this machine."""
    return settings_in(tmp_path, allow_private_addresses=True)


def painted(endpoint: Endpoint, path: str, tokens: list[str] | None = None) -> np.ndarray:
    entry = {"path": path} if tokens is None else {"path": path, "tokens": tokens}
    return picture_of(endpoint.run(REQUEST | {"embeddings": [entry], "sync_mode": True}))


def picture_of(output: dict[str, Any]) -> np.ndarray:
    data = output["images"][0]["url"].partition(",")[2]
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))))


@pytest.fixture(scope="module")
def wanted(demo_inpainter: Inpainter, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What the Inpainter paints with the same vectors in a local file; not what it paints alone."""
    path = tmp_path_factory.mktemp("vectors") / "local.safetensors"
    path.write_bytes(VECTORS)
    options = {"image_size": (64, 64), "steps": 2, "strength": 1.0, "seed": 3}
    mask = np.full((64, 64), 255, np.uint8)
    learned, plain = (
        np.asarray(
            demo_inpainter(PHOTO, mask, REQUEST["prompt"], embeddings=given, **options).image
        )
        for given in ([Embedding(path)], [])
    )
    assert (learned != plain).any()
    return learned


@pytest.mark.parametrize("path", ["/good.safetensors", "/moved"])
def test_a_url(
    server: str, open_settings: Settings, demo_inpainter: Inpainter, wanted: np.ndarray, path: str
) -> None:
    assert (painted(Endpoint(open_settings, demo_inpainter), server + path) == wanted).all()


def test_a_data_uri_and_a_stored_file(
    tmp_path: Path, demo_inpainter: Inpainter, wanted: np.ndarray
) -> None:
    files = Files(settings_in(tmp_path))
    endpoint = Endpoint(settings_in(tmp_path), demo_inpainter, files)
    assert (painted(endpoint, data_uri(VECTORS)) == wanted).all()
    stored = files.store(VECTORS, "application/octet-stream")
    assert (painted(endpoint, stored) == wanted).all()


def test_a_hub_id(
    hub: FakeHub, tmp_path: Path, demo_inpainter: Inpainter, wanted: np.ndarray
) -> None:
    endpoint = Endpoint(settings_in(tmp_path), demo_inpainter)
    assert (painted(endpoint, FakeHub.MODEL) == wanted).all()
    assert (painted(endpoint, f"{FakeHub.MODEL}/learned_embeds.safetensors") == wanted).all()


def test_a_local_path(
    hub: FakeHub,
    tmp_path: Path,
    demo_inpainter: Inpainter,
    wanted: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.commit({"learned_embeds.safetensors": vectors(1)})
    monkeypatch.chdir(tmp_path)
    owner, name = FakeHub.MODEL.split("/")
    Path(owner).mkdir()
    Path(owner, name).write_bytes(VECTORS)
    local = Endpoint(settings_in(tmp_path), demo_inpainter, local=True)
    for path in (str(tmp_path / owner / name), f"./{owner}/{name}", FakeHub.MODEL):
        assert (painted(local, path) == wanted).all(), path
    assert (painted(local, (tmp_path / owner / name).as_uri()) == wanted).all()
    assert not hub.requests, "a file that is here was looked up on the hub"
    outside = Endpoint(settings_in(tmp_path), demo_inpainter)
    assert (painted(outside, FakeHub.MODEL) != wanted).any(), "read this machine's file"


def test_several_with_tokens_of_their_own(tmp_path: Path) -> None:
    entries = [
        WireEmbedding(path=data_uri(VECTORS), tokens=["<a>", "<b>"]),
        WireEmbedding(path=data_uri(vectors(1))),
    ]
    found = resolved(entries, Files(settings_in(tmp_path)))
    assert found == [Embedding(VECTORS, ["<a>", "<b>"]), Embedding(vectors(1), ["<s0>", "<s1>"])]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "local.safetensors",
        "C:\\a.safetensors",
        "",
        "ftp://a/b",
    ],
)
def test_callers_from_outside_reach_no_files_here(
    path: str, tmp_path: Path, demo_inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local.safetensors").write_bytes(VECTORS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileDownloadError) as caught:
        painted(Endpoint(settings_in(tmp_path), demo_inpainter), path)
    status, body = error_body(caught.value)
    assert (status, body["detail"][0]["loc"]) == (422, ["body", "embeddings", 0, "path"])
    assert body["detail"][0]["type"] == "file_download_error"


def test_private_addresses_are_refused(
    server: str, tmp_path: Path, demo_inpainter: Inpainter
) -> None:
    with pytest.raises(FileDownloadError, match=r"embeddings\.0\.path"):
        painted(Endpoint(settings_in(tmp_path), demo_inpainter), f"{server}/good.safetensors")


def test_the_download_limit_holds(server: str, tmp_path: Path, demo_inpainter: Inpainter) -> None:
    settings = settings_in(tmp_path, allow_private_addresses=True, max_download_bytes=100)
    for path in (f"{server}/good.safetensors", data_uri(VECTORS)):
        with pytest.raises(FileTooLarge, match=r"embeddings\.1\.path"):
            resolved(
                [WireEmbedding(path=data_uri(b"x")), WireEmbedding(path=path)], Files(settings)
            )


def test_several_have_limits_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each of any number of them could take a download's time and 50 MiB of memory."""
    files = Files(settings_in(tmp_path))
    small = WireEmbedding(path=data_uri(VECTORS))
    assert len(resolved([small] * 16, files)) == 16
    with pytest.raises(InvalidInput, match=r"^embeddings: 17 are given, 16 may be"):
        resolved([WireEmbedding(path="http://unreachable.test/")] * 17, files)
    monkeypatch.setattr(embeddings, "MAX_BYTES", 2 * len(VECTORS))
    with pytest.raises(FileTooLarge, match=r"^embeddings\.2\.path: all together have more"):
        resolved([small] * 4, files)


@pytest.mark.parametrize("local", [True, False])
def test_pickled_files_are_never_opened(
    local: bool, server: str, open_settings: Settings, demo_inpainter: Inpainter, tmp_path: Path
) -> None:
    (tmp_path / "bad.pt").write_bytes(PICKLE)
    endpoint = Endpoint(open_settings, demo_inpainter, local=local)
    paths = [f"{server}/bad.bin", data_uri(PICKLE), *([str(tmp_path / "bad.pt")] if local else [])]
    for path in paths:
        with pytest.raises(InvalidInput, match=r"pickled files \(\.pt, \.bin\) are never opened"):
            painted(endpoint, path)


def test_a_file_that_is_not_here_is_said(tmp_path: Path, demo_inpainter: Inpainter) -> None:
    endpoint = Endpoint(settings_in(tmp_path), demo_inpainter, local=True)
    with pytest.raises(FileDownloadError, match=r"is no file here; pass its path, a URL or a hub"):
        painted(endpoint, "nowhere.safetensors")


def test_a_local_file_goes_with_its_queued_job(
    tmp_path: Path, demo_inpainter: Inpainter, wanted: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the client: the worker reads what was there when the request was submitted."""
    path = tmp_path / "local.safetensors"
    path.write_bytes(VECTORS)
    settings = settings_in(tmp_path)
    monkeypatch.setattr(runtime, "_default", None)  # of the other tests
    lightfill.fal.configure(settings, inpainter=demo_inpainter)
    try:
        request = REQUEST | {"embeddings": [{"path": str(path)}], "sync_mode": True}
        handle = lightfill.fal.submit(APPLICATION, request)
        path.write_bytes(vectors(1))
        assert (picture_of(handle.get()) == wanted).all()
    finally:
        lightfill.fal.shutdown()


def test_the_hubs_token_stays_with_callers_in_this_process(
    hub: FakeHub, tmp_path: Path, demo_inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for local in (False, True):
        hub.requests.clear()
        painted(Endpoint(settings_in(tmp_path), demo_inpainter, local=local), FakeHub.MODEL)
        assert {bool(each.authorization) for each in hub.requests} == {local}
