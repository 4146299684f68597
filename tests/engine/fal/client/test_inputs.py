"""What only this process has, paths, pictures and arrays, reaches the worker as stored files.

The worker is one of this process, or a server's.
"""

import io
from pathlib import Path
from types import ModuleType
from typing import Any

import fal_client as real
import numpy as np
import pytest
from PIL import Image

from .conftest import Somewhere

APP = "fal-ai/fast-lightning-sdxl/inpainting"
PHOTO = Path(__file__).parents[4] / "examples/coffee.png"


@pytest.fixture
def fal(somewhere: Somewhere) -> ModuleType:
    return somewhere.start()


def pixels_of(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("kind", ["path", "text", "file URL", "bytes", "picture", "array"])
def test_local_inputs_are_stored(
    kind: str, fal: ModuleType, somewhere: Somewhere, scripted: Any
) -> None:
    picture = Image.open(PHOTO).convert("RGB")
    value: Any = {
        "path": PHOTO, "text": str(PHOTO), "file URL": PHOTO.as_uri(), "bytes": PHOTO.read_bytes(),
        "picture": picture, "array": np.asarray(picture),
    }[kind]  # fmt: skip
    fal.run(APP, {"prompt": "x", "image_url": value, "mask_url": value})
    (ran,) = scripted.ran
    for field in ("image_url", "mask_url"):
        read = somewhere.files.read_input(ran[field], field)  # as a worker reads: no paths
        assert isinstance(read, bytes)
        np.testing.assert_array_equal(pixels_of(read), np.asarray(picture))


def test_what_any_worker_can_read_stays_as_it_is(
    fal: ModuleType, somewhere: Somewhere, scripted: Any
) -> None:
    data_uri = fal.encode(b"x" * 10_000, "image/png")
    arguments = {
        "prompt": str(PHOTO), "image_url": "https://example.org/x.png", "mask_url": data_uri,
        "embeddings": [{"path": "someone/hub-id"}, "nonsense"], "seed": None,
    }  # fmt: skip
    fal.run(APP, arguments)
    stored = fal.upload(b"x", "image/png")
    fal.run(APP, {**arguments, "image_url": stored, "mask_url": 7})
    assert scripted.ran[0] == arguments
    assert scripted.ran[1] == {**arguments, "image_url": stored, "mask_url": 7}


def test_a_local_embedding_is_stored(
    fal: ModuleType, somewhere: Somewhere, scripted: Any, tmp_path: Path
) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"vectors")
    embeddings = [{"path": str(tmp_path / "style.safetensors"), "tokens": ["<s>"]}]
    fal.run(APP, {"prompt": "x", "embeddings": embeddings})
    (kept,) = scripted.ran[0]["embeddings"]
    assert kept["tokens"] == ["<s>"]
    assert somewhere.files.read_input(kept["path"], "embeddings") == b"vectors"


def test_a_path_that_is_not_there_is_fal_s_422(fal: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(fal.FalClientHTTPError) as caught:
        fal.submit(APP, {"prompt": "x", "image_url": tmp_path / "none.png"})
    assert caught.value.status_code == 422
    assert caught.value.message[0]["loc"] == ["body", "image_url"]
    assert caught.value.message[0]["type"] == "file_download_error"


@pytest.mark.parametrize("text", ["no such picture.png", "/nowhere/x.png", "www.example.org/x"])
def test_text_that_can_only_be_a_path_is_missed_at_once(fal: ModuleType, text: str) -> None:
    with pytest.raises(fal.FalClientHTTPError) as caught:
        fal.submit(APP, {"prompt": "x", "image_url": "data:,x", "mask_url": text})
    (item,) = caught.value.message
    assert (item["loc"], item["type"]) == (["body", "mask_url"], "file_download_error")
    assert item["msg"].endswith("check the path")


def test_a_tuple_of_embeddings_is_a_list(
    fal: ModuleType, somewhere: Somewhere, scripted: Any, tmp_path: Path
) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"vectors")
    embeddings = ({"path": str(tmp_path / "style.safetensors")}, {"path": "someone/hub-id"})
    fal.run(APP, {"prompt": "x", "embeddings": embeddings})
    first, second = scripted.ran[0]["embeddings"]
    assert somewhere.files.read_input(first["path"], "embeddings") == b"vectors"
    assert second == {"path": "someone/hub-id"}


def test_any_text_reaches_the_worker_as_it_is(fal: ModuleType, scripted: Any) -> None:
    arguments = {"prompt": "\ud800 \0 \u2603", "\udfff": 1}
    fal.run(APP, arguments)
    assert scripted.ran == [arguments]


def test_uploads_keep_name_type_and_bytes(
    fal: ModuleType, somewhere: Somewhere, tmp_path: Path
) -> None:
    big = tmp_path / "big picture.bin"
    big.write_bytes(bytes(range(256)) * 20_000)
    stored = somewhere.files.open(fal.upload_file(str(big)))
    assert stored.path.read_bytes() == big.read_bytes()
    assert (stored.file_name, stored.content_type) == (big.name, "application/octet-stream")
    stored = somewhere.files.open(fal.upload_image(Image.open(PHOTO), "png"))
    assert stored.content_type == "image/png"
    np.testing.assert_array_equal(
        pixels_of(stored.path.read_bytes()), pixels_of(PHOTO.read_bytes())
    )


def test_uploads_that_cannot_be(fal: ModuleType, somewhere: Somewhere, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fal.upload_file(tmp_path / "none")
    with pytest.raises(ValueError, match="Unsupported upload repository"):
        fal.upload(b"x", "text/plain", repository="nowhere")
    with pytest.warns(DeprecationWarning, match="cdn") as warned:
        fal.upload(b"x", "text/plain", repository="cdn", fallback_repository=["fal"])
    assert warned[0].filename == __file__
    somewhere.start(max_upload_bytes=10)
    with pytest.raises(fal.FalClientHTTPError) as caught:
        fal.upload(b"x" * 11, "text/plain")
    if somewhere.server is None:
        assert caught.value.message[0]["type"] == "file_too_large"
    assert caught.value.status_code == (422 if somewhere.server is None else 413)


@pytest.mark.parametrize("expires_in", ["never", "immediate", "1h", "1d", "7d", "30d", "1y", 5])
def test_lifecycles_last_as_long_as_fal_client_s(fal_module: ModuleType, expires_in: Any) -> None:
    from fal_client.client import _normalize_upload_lifecycle

    theirs = _normalize_upload_lifecycle(real.StorageSettings(expires_in=expires_in)) or {}
    ours = fal_module.StorageSettings(expires_in=expires_in).seconds()
    assert ours == theirs.get("expiration_duration_seconds")


@pytest.mark.parametrize("expires_in", [True, 0, -1, "2h"])
def test_wrong_lifecycles_are_value_errors_in_both(fal_module: ModuleType, expires_in: Any) -> None:
    for module in (real, fal_module):
        with pytest.raises(ValueError, match="expires_in"):
            module.StorageSettings(expires_in=expires_in)


def test_encoding_is_fal_client_s(fal_module: ModuleType, tmp_path: Path) -> None:
    fal = fal_module
    (tmp_path / "x.unknown").write_bytes(b"\x00\xff")
    picture = Image.open(PHOTO).convert("RGB")
    for module in (fal, real):
        assert module.encode("tea", "text/plain") == "data:text/plain;base64,dGVh"
    assert fal.encode_file(PHOTO) == real.encode_file(PHOTO)
    assert fal.encode_file(tmp_path / "x.unknown") == real.encode_file(tmp_path / "x.unknown")
    assert fal.encode_image(picture) == real.encode_image(picture)
    assert fal.encode_image(picture, "png") == real.encode_image(picture, "png")


@pytest.mark.parametrize(
    "endpoint_id",
    ["a/b", "a/b/c/d", "workflows/a/b/c", "comfy/a/b", "123-alias", "a", "workflows/a"],
)
def test_endpoint_ids_are_read_as_fal_client_reads_them(endpoint_id: str) -> None:
    from fal_client.client import AppId as RealAppId

    from lightfill.engine.fal.app_id import AppId

    try:
        theirs = RealAppId.from_endpoint_id(endpoint_id)
    except (ValueError, IndexError):
        with pytest.raises(ValueError, match="Invalid app id"):
            AppId.from_endpoint_id(endpoint_id)
    else:
        assert vars(AppId.from_endpoint_id(endpoint_id)) == vars(theirs)
