"""Files of fal's JavaScript clients: uploaded, found in inputs, and sent as data URIs."""

import hashlib
import io
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from running_server import RunningServer

from .conftest import NEW, JavaScript, Node

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURES = {"photo": str(EXAMPLES / "coffee.png"), "mask": str(EXAMPLES / "coffee-mask.png")}
INPUT = {
    "prompt": "a red ball",
    "image_size": {"width": 64, "height": 64},
    "num_inference_steps": 1,
}


def read(url: str) -> tuple[bytes, Any]:
    with urllib.request.urlopen(url) as file:
        return file.read(), file.headers


def check_uploads(told: Any) -> None:
    text, headers = read(told["urls"]["text"])
    assert (text, headers["content-type"]) == (b"Hello, World!", "text/plain; charset=utf-8")
    assert headers["content-disposition"].endswith("h%C3%A9llo.txt")
    photo, headers = read(told["urls"]["photo"])
    assert (photo, headers["content-type"]) == (
        Path(PICTURES["photo"]).read_bytes(), "image/png",
    )  # fmt: skip
    for output in (told["blobs"], told["data"]):
        (image,) = output["images"]
        assert Image.open(io.BytesIO(read(image["url"])[0])).size == (64, 64)


def test_files_blobs_and_data_uris(javascript: JavaScript, demo_server: RunningServer) -> None:
    told = javascript.report("upload", demo_server, input=INPUT, **PICTURES)
    check_uploads(told)
    if not javascript.is_old:
        stored = demo_server.site.files.open(told["urls"]["kept"])
        assert stored.expires is not None
        assert stored.expires - stored.path.stat().st_mtime == pytest.approx(3600, abs=60)


def test_the_same_by_a_proxy_and_by_a_fetch_of_one_s_own(
    otherwise: JavaScript, demo_server: RunningServer
) -> None:
    check_uploads(otherwise.report("upload", demo_server, input=INPUT, **PICTURES))


def test_a_large_file_goes_in_parts(node: Node, server: RunningServer) -> None:
    """91 MiB: where @fal-ai/client begins to send parts cannot be lowered."""
    told = JavaScript(node, NEW, "middleware").report("large_upload", server, mebibytes=91)
    stored = server.site.files.open(told["url"])
    assert hashlib.sha256(stored.path.read_bytes()).hexdigest() == told["sha256"]
    assert (stored.file_name, stored.size) == ("large.bin", 91 << 20)
