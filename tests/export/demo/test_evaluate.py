"""The judge of pictures and what it is asked: it learns from renders, and seams are seen."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightfill.export.demo import evaluate
from lightfill.export.demo.classifier import NAMES, accuracy, crop, keep, load, trained
from lightfill.export.demo.photos import photos
from lightfill.export.demo.shapes import COLOURS, SHAPES


def test_a_crop_is_the_mask_s_box() -> None:
    picture = np.zeros((90, 120, 3), np.uint8)
    picture[20:50, 40:100] = (10, 200, 30)
    mask = np.zeros((90, 120), np.uint8)
    mask[20:50, 40:100] = 255
    cropped = crop(picture, mask)
    assert cropped.shape == (64, 64, 3)
    assert (cropped == (10, 200, 30)).all()


def test_a_judge_learns_from_renders_and_is_kept(tmp_path: Path) -> None:
    judge = trained(renders=512, epochs=4)
    rights = accuracy(judge, renders=80)
    assert rights["colour"] > 0.35 > 3 / len(NAMES["colour"])
    assert rights["ground"] > 0.4 > 3 / len(NAMES["ground"])
    keep(judge, tmp_path / "judge.safetensors")
    crops = [photo[:64, :64] for photo in photos("held_out").values()]
    assert load(tmp_path / "judge.safetensors").names(crops) == judge.names(crops)


def test_an_untouched_photo_has_no_seam_and_a_pasted_patch_has() -> None:
    photo = photos("held_out")["coffee"]
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[100:200, 150:300] = 255
    assert evaluate.seam(photo, photo, mask) < 1.5
    pasted = np.where(mask[..., None] > 0, np.uint8(255), photo)
    assert evaluate.seam(pasted, photo, mask) > 5


def test_every_colour_of_every_shape_is_asked_for_once_and_every_ground_equally() -> None:
    asked = evaluate.trials(64)
    things = Counter(trial.prompt for trial in asked if "colour" in trial.wanted)
    assert set(things) == {f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES}
    assert set(things.values()) == {1}
    grounds = Counter(trial.prompt for trial in asked if "ground" in trial.wanted)
    assert len(set(grounds.values())) == 1
    assert all(trial.wanted["shape"] != "ball" for trial in asked if "shape" in trial.wanted)


def test_a_bundle_is_measured_with_figures_and_sheets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *things, ground = evaluate.trials(64)
    monkeypatch.setattr(evaluate, "trials", lambda _: [*things[:3], ground])
    monkeypatch.setattr(evaluate, "JUDGE", tmp_path / "judge.safetensors")
    keep(trained(renders=64, epochs=1), evaluate.JUDGE)
    monkeypatch.setattr(evaluate, "accuracy", lambda _: {"colour": 1.0})
    monkeypatch.setattr(sys, "argv", ["evaluate", "--edge", "64", "--out", str(tmp_path / "out")])
    evaluate.main()
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures.pop("judge") == {"colour": 1.0}
    assert "4 steps, strength 0.95" in figures
    for measured in figures.values():
        assert set(measured) == {"colour", "shape", "ground", "seam"}
        assert all(0 <= measured[kind] <= 1 for kind in ("colour", "shape", "ground"))
    with Image.open(tmp_path / "out" / "4-1.0.png") as sheet:
        assert sheet.size == (12 * 32, 32)
