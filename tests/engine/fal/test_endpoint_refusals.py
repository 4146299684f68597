"""What the endpoint refuses and how, whose files it reads, and how it is opened and closed."""

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fal_requests import SMALL, data_uri, mask, opened, photo, settings_in
from PIL import Image

from lightfill import Inpainter
from lightfill.engine.bundle import DEMO_BUNDLE
from lightfill.engine.errors import (
    FileDownloadError,
    ImageLoadError,
    InvalidInput,
    SessionError,
)
from lightfill.engine.fal.endpoint import Endpoint
from lightfill.engine.fal.files import Files
from lightfill.engine.fal.schema import RequestInvalid, error_body


@pytest.fixture
def endpoint(tmp_path: Path, demo_inpainter: Inpainter) -> Endpoint:
    return Endpoint(settings_in(tmp_path), demo_inpainter)


# --- what is refused ------------------------------------------------------------------------------


def refused(endpoint: Endpoint, kind: type[InvalidInput], **changes: Any) -> dict[str, Any]:
    """The one item of the 422 that a request answers with."""
    with pytest.raises(kind) as caught:
        endpoint.run(SMALL | changes)
    status, body = error_body(caught.value)
    assert status == 422
    (item,) = body["detail"]
    return item


@pytest.mark.parametrize(
    ("changes", "kind", "field"),
    [
        ({"prompt": None}, RequestInvalid, "prompt"),
        ({"num_inference_steps": 3}, RequestInvalid, "num_inference_steps"),
        ({"seed": 2**64}, RequestInvalid, "seed"),
        ({"image_size": {"width": 63, "height": 64}}, InvalidInput, "image_size"),
        ({"image_size": {"width": 4096}}, InvalidInput, "image_size"),
        ({"image_url": "coffee.png"}, FileDownloadError, "image_url"),
        ({"image_url": "file:///etc/passwd"}, FileDownloadError, "image_url"),
        ({"mask_url": "http://127.0.0.1:1/x.png"}, FileDownloadError, "mask_url"),
        ({"mask_url": "data:image/png;base64,AAAA"}, ImageLoadError, "mask_url"),
        ({"mask_url": data_uri(Image.new("L", (9, 9)))}, InvalidInput, "mask_url"),
        ({"loras": [{"path": "style.safetensors"}]}, InvalidInput, "loras"),
        ({"prompt": "\ud800"}, InvalidInput, "prompt"),
        ({"prompt": "a" * 1_000_000}, InvalidInput, "prompt"),
        ({"embeddings": [{"path": "http://127.0.0.1:1/"}] * 1000}, InvalidInput, "embeddings"),
    ],
)
def test_wrong_requests_name_their_field(
    endpoint: Endpoint, changes: dict[str, Any], kind: type[InvalidInput], field: str
) -> None:
    assert refused(endpoint, kind, **changes)["loc"] == ["body", field]


def edited_bundle(folder: Path, **changes: Any) -> Path:
    shutil.copytree(DEMO_BUNDLE, folder)
    manifest = json.loads((folder / "lightfill.json").read_text())
    for key, change in changes.items():
        change(manifest[key])
    (folder / "lightfill.json").write_text(json.dumps(manifest))
    return folder


def test_steps_the_bundle_lacks_are_the_callers_to_change(tmp_path: Path) -> None:
    bundle = edited_bundle(tmp_path / "b", steps=lambda steps: [steps.pop(n) for n in ("1", "2")])
    with Endpoint(settings_in(tmp_path, bundle=bundle, threads=1)) as endpoint:
        item = refused(endpoint, InvalidInput, num_inference_steps="2")
        assert item["loc"] == ["body", "num_inference_steps"]
        assert item["msg"].endswith("use 4, 8")
        endpoint.run(SMALL)


def test_loras_may_name_what_the_bundle_has_merged(tmp_path: Path) -> None:
    merged = [{"file": "my style.safetensors", "sha256": "0" * 64, "scale": 0.5}]
    bundle = edited_bundle(
        tmp_path / "b", components=lambda parts: parts["unet"].update(loras=merged)
    )
    with Endpoint(settings_in(tmp_path, bundle=bundle, threads=1)) as endpoint:
        plain = endpoint.run(SMALL)
        for path in ("my style.safetensors", "https://example.org/a/my%20style.safetensors?x=1"):
            named = endpoint.run(SMALL | {"loras": [{"path": path, "scale": 0.5}]})
            assert np.array_equal(np.asarray(opened(named)), np.asarray(opened(plain)))
        for loras in (
            [{"path": "my style.safetensors"}],
            [{"path": "other.safetensors", "scale": 0.5}],
            [{"path": "my style.safetensors", "scale": 0.5}] * 2,
        ):
            item = refused(endpoint, InvalidInput, loras=loras)
            assert item["loc"] == ["body", "loras"]
            assert "my style.safetensors at 0.5" in item["msg"]


# --- whose files ----------------------------------------------------------------------------------


def test_only_callers_in_this_process_may_name_local_files(
    tmp_path: Path, demo_inpainter: Inpainter
) -> None:
    photo().save(tmp_path / "photo.png")
    mask().save(tmp_path / "mask.png")
    named = SMALL | {
        "image_url": str(tmp_path / "photo.png"),
        "mask_url": (tmp_path / "mask.png").as_uri(),
    }
    settings = settings_in(tmp_path)
    inside = Endpoint(settings, demo_inpainter, local=True).run(named)
    wanted = Endpoint(settings, demo_inpainter).run(SMALL)
    assert np.array_equal(np.asarray(opened(inside)), np.asarray(opened(wanted)))
    with pytest.raises(FileDownloadError, match="image_url"):
        Endpoint(settings, demo_inpainter).run(named)


def test_results_and_uploads_belong_to_their_owner(
    tmp_path: Path, demo_inpainter: Inpainter
) -> None:
    settings = settings_in(tmp_path)
    files = Files(settings)
    endpoint = Endpoint(settings, demo_inpainter, files)
    buffer = BytesIO()
    photo().save(buffer, "PNG")
    uploaded = SMALL | {"image_url": files.store(buffer.getvalue(), "image/png", owner="ann")}
    result = endpoint.run(uploaded, owner="ann")["images"][0]["url"]
    assert files.open(result, owner="ann").content_type == "image/png"
    for request in (uploaded, SMALL | {"image_url": result}):
        with pytest.raises(FileDownloadError):
            endpoint.run(request, owner="bob")


# --- opening and closing --------------------------------------------------------------------------


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    real = Inpainter.open

    def counting(*args: Any, **options: Any) -> Inpainter:
        calls.append({"args": args, **options})
        return real(*args, **options)

    monkeypatch.setattr(Inpainter, "open", counting)
    return calls


def test_the_inpainter_of_the_settings_is_opened_once(
    tmp_path: Path, openings: list[dict[str, Any]]
) -> None:
    settings = settings_in(tmp_path, threads=1, low_memory=True, max_pixels=70 * 90)
    endpoint = Endpoint(settings)
    with pytest.raises(RequestInvalid):
        endpoint.run({})
    assert not openings, "opened for a request that is wrong"
    endpoint.run(SMALL | {"num_inference_steps": 1})
    endpoint.run(SMALL | {"num_inference_steps": 1})
    assert len(openings) == 1
    assert openings[0]["args"] == (None, "cpu")
    assert (openings[0]["threads"], openings[0]["low_memory"]) == (1, True)
    refused(endpoint, InvalidInput, image_url=data_uri(photo().resize((91, 70))))
    inpainter = endpoint.open()
    endpoint.close()
    endpoint.close()
    with pytest.raises(SessionError, match="closed; make a new one"):
        endpoint.run(SMALL)
    with pytest.raises(SessionError):
        inpainter(photo(), mask(), "a red ball", image_size="source")


def test_an_inpainter_passed_in_stays_open(tmp_path: Path, demo_inpainter: Inpainter) -> None:
    with Endpoint(settings_in(tmp_path), demo_inpainter):
        pass
    assert demo_inpainter(photo(), mask(), "a red ball", image_size="source", steps=1).images
