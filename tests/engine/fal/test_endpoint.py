"""One request in fal's words: output, timings, logs, cancelling, embeddings, and every refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
from bundles import brightness_checker, bundle_with, flagged_picture
from fal_requests import SMALL, Log, data_uri, mask, opened, photo, settings_in
from PIL import Image

from lightfill import Inpainter
from lightfill.engine import nsfw_classifier
from lightfill.engine.errors import (
    Cancelled,
    ComponentMissing,
)
from lightfill.engine.fal.endpoint import Endpoint
from lightfill.engine.fal.files import Files
from lightfill.engine.fal.schema import InpaintingOutput, error_body
from lightfill.engine.prompts import STYLES

STAGES = {"prepare", "text", "vae_encode", "unet", "vae_decode", "composite", "safety"}
KEYS = {"fetch", "inference", "upload"} | STAGES


@pytest.fixture
def endpoint(tmp_path: Path, demo_inpainter: Inpainter) -> Endpoint:
    return Endpoint(settings_in(tmp_path), demo_inpainter)


# --- what comes back ------------------------------------------------------------------------------


def test_the_output_is_fals_and_the_picture_the_inpainters(
    endpoint: Endpoint, demo_inpainter: Inpainter
) -> None:
    output = endpoint.run(SMALL)
    assert list(output) == list(InpaintingOutput.model_fields)
    (image,) = output["images"]
    assert (image["width"], image["height"], image["content_type"]) == (96, 64, "image/png")
    assert (output["seed"], output["prompt"]) == (5, "a red ball")
    assert output["has_nsfw_concepts"] == [False]
    json.dumps(output)
    direct = demo_inpainter(photo(), mask(), "a red ball", image_size=(96, 64), seed=5)
    assert np.array_equal(np.asarray(opened(output)), np.asarray(direct.image))


def test_timings_are_seconds_by_stage(endpoint: Endpoint) -> None:
    timings = endpoint.run(SMALL)["timings"]
    assert set(timings) == KEYS
    assert all(isinstance(seconds, float) and seconds >= 0 for seconds in timings.values())
    assert 0 < timings["unet"] < timings["inference"]
    assert sum(timings[stage] for stage in STAGES) <= timings["inference"]


@pytest.mark.parametrize(("file_format", "kind"), [("jpeg", "image/jpeg"), ("png", "image/png")])
def test_sync_mode_answers_with_data_uris(endpoint: Endpoint, file_format: str, kind: str) -> None:
    stored = endpoint.run(SMALL | {"format": file_format})
    inside = endpoint.run(SMALL | {"format": file_format, "sync_mode": True})
    assert stored["images"][0]["url"].startswith("file://")
    assert inside["images"][0]["url"].startswith(f"data:{kind};base64,")
    for output in (stored, inside):
        assert output["images"][0]["content_type"] == kind
        assert opened(output).format == file_format.upper()
    assert np.array_equal(np.asarray(opened(stored)), np.asarray(opened(inside)))


def test_every_option_reaches_the_model(endpoint: Endpoint, demo_inpainter: Inpainter) -> None:
    given = {
        "num_inference_steps": "2", "strength": 1.0, "num_images": 3, "fit": "pad", "feather": 0,
        "mask_crop_padding": 0.5, "expand_prompt": True, "safety_checker_version": "v2",
        "guidance_rescale": 0.5, "request_id": "mine", "negative_prompt": "ignored",
    }  # fmt: skip
    output = endpoint.run(SMALL | given)
    direct = demo_inpainter(
        photo(), mask(), "a red ball", image_size=(96, 64), seed=5, steps=2, strength=1.0,
        num_images=3, fit="pad", feather=0, crop_to_mask=0.5, expand_prompt=True,
    )  # fmt: skip
    assert output["prompt"] == direct.prompt == ", ".join(["a red ball", *STYLES["photograph"]])
    assert output["has_nsfw_concepts"] == [False] * 3
    for index in range(3):
        assert np.array_equal(np.asarray(opened(output, index)), np.asarray(direct.images[index]))


def test_a_preset_and_the_defaults(endpoint: Endpoint) -> None:
    required = {name: SMALL[name] for name in ("image_url", "mask_url", "prompt")}
    log = Log()
    output = endpoint.run(required | {"image_size": "square"}, on_log=log)
    image = output["images"][0]
    assert (image["width"], image["height"], image["content_type"]) == (512, 512, "image/jpeg")
    assert log.steps() == ["step 1/3", "step 2/3", "step 3/3"]  # 4 steps at strength 0.95
    assert 0 <= output["seed"] < 2**32
    again = endpoint.run(required | {"image_size": "square", "seed": output["seed"]})
    assert np.array_equal(np.asarray(opened(again)), np.asarray(opened(output)))


def test_seeds_are_returned_as_given(endpoint: Endpoint) -> None:
    pictures = {}
    for seed in (-1, 2**64 - 1, 7):
        output = endpoint.run(SMALL | {"seed": seed, "num_inference_steps": 1})
        assert output["seed"] == seed
        pictures[seed] = np.asarray(opened(output))
    assert np.array_equal(pictures[-1], pictures[2**64 - 1]), "as torch.manual_seed takes them"
    assert not np.array_equal(pictures[-1], pictures[7])
    drawn = {endpoint.run({**SMALL, "seed": None})["seed"] for _ in range(3)}
    assert len(drawn) == 3


# --- logs and cancelling --------------------------------------------------------------------------


def test_the_log_tells_what_the_output_does_not(endpoint: Endpoint) -> None:
    log = Log()
    endpoint.run(SMALL | {"num_images": 2, "expand_prompt": True}, on_log=log)
    assert log.steps() == [f"step {step}/6" for step in range(1, 7)]
    assert any(line.startswith("prompt expanded to 'a red ball, highly") for line in log)
    assert "the model has no safety checker v1: v2 checked" in log
    log = Log()
    wide = SMALL | {"prompt": "word " * 100, "image_size": {"width": 64, "height": 256}}
    endpoint.run(wide | {"safety_checker_version": "v2"}, on_log=log)
    assert any(line.startswith("the prompt is too long, not used: 'word ") for line in log)
    assert any("of the mask lies outside the cropped picture" in line for line in log)
    assert not any("v2 checked" in line for line in log)


@pytest.mark.parametrize("done", [1, 2, 3])
def test_cancelling_stops_between_steps(endpoint: Endpoint, tmp_path: Path, done: int) -> None:
    log = Log(limit=done)
    with pytest.raises(Cancelled, match="cancelled by the caller") as caught:
        endpoint.run(SMALL, on_log=log, cancelled=log.cancelled)
    assert log.steps() == [f"step {step}/3" for step in range(1, done + 1)]
    assert error_body(caught.value)[0] == 499
    stored = list((tmp_path / "data").rglob("*.png"))
    assert not stored, "a cancelled request left a result"


def test_a_request_cancelled_before_it_begins_fetches_nothing(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files, "read_input", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(Cancelled):
        endpoint.run(SMALL, cancelled=lambda: True)


# --- safety ---------------------------------------------------------------------------------------


def test_a_flagged_picture_is_black_and_the_request_succeeds(endpoint: Endpoint) -> None:
    speck = Image.new("L", (256, 256))
    speck.paste(255, (0, 0, 8, 8))
    request = SMALL | {
        "image_url": data_uri(flagged_picture()),
        "mask_url": data_uri(speck),
        "image_size": {"width": 256, "height": 256},
        "num_inference_steps": 1,
    }
    for version in ("v1", "v2"):
        log = Log()
        output = endpoint.run(request | {"safety_checker_version": version}, on_log=log)
        assert output["has_nsfw_concepts"] == [True]
        assert opened(output).size == (256, 256)
        assert not np.asarray(opened(output)).any()
        assert "image 0 shows NSFW content: it is returned black" in log
    unchecked = endpoint.run(request | {"enable_safety_checker": False})
    assert unchecked["has_nsfw_concepts"] == [False]
    assert np.asarray(opened(unchecked)).any()


def test_the_bundles_checker_is_v1(tmp_path: Path) -> None:
    flags_all = bundle_with(tmp_path / "b", "safety_checker", brightness_checker(-100))
    with Endpoint(settings_in(tmp_path, bundle=flags_all, threads=1)) as endpoint:
        assert endpoint.run(SMALL | {"num_images": 2})["has_nsfw_concepts"] == [True, True]
        second = endpoint.run(SMALL | {"safety_checker_version": "v2"})
        assert second["has_nsfw_concepts"] == [False]


def test_without_any_checker_only_unchecked_requests_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nsfw_classifier, "find_spec", lambda _: None)
    with Endpoint(settings_in(tmp_path, threads=1)) as endpoint:
        with pytest.raises(ComponentMissing, match=r"lightfill\[safety\]"):
            endpoint.run(SMALL)
        assert endpoint.run(SMALL | {"enable_safety_checker": False})["has_nsfw_concepts"] == [
            False
        ]
