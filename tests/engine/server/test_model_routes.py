"""/api/model: what the server paints with, as the bundle and the settings have it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import brightness_checker, bundle_with
from running_server import RunningServer, running
from scripted_endpoint import ScriptedEndpoint

from lightfill import __version__
from lightfill.engine import nsfw_classifier
from lightfill.engine.fal.settings import Settings
from lightfill.engine.request import IMAGE_SIZES


def test_the_embedded_model(server: RunningServer) -> None:
    with server.client() as client:
        reply = client.get("/api/model")
        schema = client.get("/openapi.json").json()["components"]["schemas"]["Model"]
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    model = reply.json()
    assert set(model) == set(schema["required"]) == set(schema["properties"])
    assert model["name"] == "lightfill-demo"
    assert (model["natural_size"], model["steps"]) == (256, [1, 2, 4, 8])
    assert (model["device"], model["version"]) == ("cpu", __version__)
    assert model["any_size"] is True
    assert model["asks_for_keys"] is False
    assert model["safety_checker"] == "v2"
    assert model["image_sizes"] == {
        name: {"width": width, "height": height} for name, (width, height) in IMAGE_SIZES.items()
    }
    limits = model["limits"]
    assert (limits["min_side"], limits["max_side"], limits["max_images"]) == (64, 2048, 8)
    assert limits["max_file_bytes"] == 50 << 20


def test_only_what_is_there_is_offered(
    settings: Settings, scripted: type[ScriptedEndpoint], tmp_path: Path
) -> None:
    bundle = bundle_with(tmp_path / "bundle", "safety_checker", brightness_checker(0))
    manifest = json.loads((bundle / "lightfill.json").read_text())
    manifest["steps"] = {"2": manifest["steps"]["2"], "3": manifest["steps"]["2"]}
    manifest["name"] = "two"
    (bundle / "lightfill.json").write_text(json.dumps(manifest))
    changed = replace(settings, bundle=bundle, device="rtx", authentication=True)
    with running(changed) as server, server.client() as client:
        model = client.get("/api/model").json()
    assert (model["name"], model["steps"]) == ("two", [2])  # fal has no 3
    assert (model["device"], model["any_size"]) == ("rtx", False)
    assert (model["safety_checker"], model["asks_for_keys"]) == ("v1", True)


def test_without_the_safety_package_there_is_no_checker(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nsfw_classifier, "find_spec", lambda _: None)
    with server.client() as client:
        assert client.get("/api/model").json()["safety_checker"] is None


def test_a_bundle_that_is_gone_is_an_error_in_fals_shape(
    settings: Settings, scripted: type[ScriptedEndpoint], tmp_path: Path
) -> None:
    with running(replace(settings, bundle=tmp_path / "none")) as server, server.client() as client:
        reply = client.get("/api/model")
    assert reply.status_code == 500
    assert "is not a bundle" in reply.json()["detail"]
