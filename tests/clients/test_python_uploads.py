"""Files of PyPI fal-client: uploaded in every way it knows, and sent as data URIs."""

import io
import urllib.request
from pathlib import Path
from typing import Any

import fal_client
import pytest
from patched_fal_client import Fal, Make
from PIL import Image
from running_server import ENDPOINT, RunningServer

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTO, MASK = EXAMPLES / "coffee.png", EXAMPLES / "coffee-mask.png"
SMALL = {
    "prompt": "a red ball",
    "image_size": {"width": 64, "height": 64},
    "num_inference_steps": 1,
}


def read(url: str) -> tuple[bytes, Any]:
    with urllib.request.urlopen(url) as file:
        return file.read(), file.headers


def check_painted(output: Any) -> None:
    (image,) = output["images"]
    assert Image.open(io.BytesIO(read(image["url"])[0])).size == (64, 64)


def test_data_uris_are_painted(painting: Fal) -> None:
    arguments = {
        **SMALL,
        "image_url": fal_client.encode_file(PHOTO),
        "mask_url": fal_client.encode_image(Image.open(MASK), "png"),
    }
    check_painted(painting.subscribe(ENDPOINT, arguments))


def test_uploaded_files_are_painted(painting: Fal) -> None:
    arguments = {
        **SMALL,
        "image_url": painting.upload_file(PHOTO),
        "mask_url": painting.upload_image(Image.open(MASK), "png"),
    }
    check_painted(painting.run(ENDPOINT, arguments))


@pytest.mark.parametrize("repository", ["fal_v3", "fal"])
def test_both_repositories_keep_bytes_type_and_name(
    make: Make, server: RunningServer, tmp_path: Path, repository: str
) -> None:
    fal = make(server)
    (tmp_path / "a text.txt").write_text("Hello, World!", encoding="utf-8")
    where = {"repository": repository, "fallback_repository": []}
    for url in (
        fal.upload("Hello, World!", "text/plain", "a text.txt", **where),
        fal.upload_file(tmp_path / "a text.txt", **where),
    ):
        content, headers = read(url)
        assert content == b"Hello, World!"
        assert headers["content-type"].startswith("text/plain")
        stored = server.site.files.open(url)
        assert (stored.file_name, stored.content_type) == ("a text.txt", "text/plain")


@pytest.mark.parametrize("source", ["data", "file"])
def test_a_large_file_goes_in_parts(
    make: Make,
    server: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    """More than 100 MiB does; the limits are lowered here."""
    monkeypatch.setattr(fal_client.client, "MULTIPART_THRESHOLD", 1 << 20)
    monkeypatch.setattr(fal_client.client, "MULTIPART_CHUNK_SIZE", 1 << 18)
    content = bytes(range(256)) * 9000
    (tmp_path / "large.bin").write_bytes(content)
    fal = make(server)
    if source == "data":
        url = fal.upload(content, "application/octet-stream", "large.bin")
    else:
        url = fal.upload_file(tmp_path / "large.bin")
    stored = server.site.files.open(url)
    assert stored.path.read_bytes() == content
    assert stored.file_name == "large.bin"


@pytest.mark.parametrize("repository", ["fal_v3", "fal"])
def test_a_lifecycle_is_kept_to(make: Make, server: RunningServer, repository: str) -> None:
    fal = make(server)
    lifecycle = fal_client.StorageSettings(expires_in="1h")
    url = fal.upload(b"x", "text/plain", repository=repository, lifecycle=lifecycle)
    stored = server.site.files.open(url)
    assert stored.expires is not None
    assert stored.expires - stored.path.stat().st_mtime == pytest.approx(3600, abs=60)
