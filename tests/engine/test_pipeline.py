"""One request from end to end on the embedded demo model: sizes, seeds, caches, steps, threads."""

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from lightfill.engine import nsfw_classifier
from lightfill.engine.denoise import Progress
from lightfill.engine.errors import (
    Cancelled,
    ComponentMissing,
    InvalidInput,
    NonFiniteOutput,
    SessionError,
)
from lightfill.engine.pipeline import Inpainter
from lightfill.engine.result import Result
from lightfill.engine.sessions.onnxruntime import OnnxRuntimeSession

PHOTO = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
MASK = np.zeros((90, 120), np.uint8)
MASK[30:70, 40:90] = 255
SMALL: dict[str, Any] = {"image_size": (64, 64), "steps": 2, "strength": 1.0, "seed": 7}


@pytest.fixture
def fresh() -> Iterator[Inpainter]:
    """An Inpainter that remembers nothing of other tests, and that a test may close."""
    with Inpainter.open() as inpainter:
        yield inpainter


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each component's session has run."""
    counts: Counter[str] = Counter()
    real = OnnxRuntimeSession._run

    def counting(session: OnnxRuntimeSession, feed: Any) -> Any:
        counts[session.component] += 1
        return real(session, feed)

    monkeypatch.setattr(OnnxRuntimeSession, "_run", counting)
    return counts


def paint(inpainter: Inpainter, prompt: str = "a red ball", **options: Any) -> Result:
    return inpainter(PHOTO, MASK, prompt, **(SMALL | options))


def pixels(result: Result, index: int = 0) -> np.ndarray:
    return np.asarray(result.images[index])


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        ((64, 64), (64, 64)),
        ((65, 96), (65, 96)),
        ("100x75", (100, 75)),
        ({"width": 127, "height": 64}, (127, 64)),
        ((200, 130), (200, 130)),
        ("source", (120, 90)),
    ],
)
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_picture_has_exactly_the_size_asked_for(
    demo_inpainter: Inpainter, image_size: Any, expected: tuple[int, int], fit: str
) -> None:
    result = paint(demo_inpainter, image_size=image_size, fit=fit, steps=1)
    assert result.image.size == expected
    assert result.image.mode == "RGB"
    assert result.source.shape == (*expected[::-1], 3)
    assert result.mask.shape == expected[::-1]
    outside = ~result.mask
    assert (pixels(result)[outside] == result.source[outside]).all()
    assert difference(pixels(result)[result.mask], result.source[result.mask]) > 10


def test_a_preset_runs_at_its_size(demo_inpainter: Inpainter) -> None:
    assert paint(demo_inpainter, image_size="square", steps=1).image.size == (512, 512)


def test_source_size_must_be_one_the_model_takes(demo_inpainter: Inpainter) -> None:
    with pytest.raises(
        InvalidInput, match=r"the photo is 63x\d+, and \"source\" needs sides from 64 to 2048"
    ):
        demo_inpainter(PHOTO[:, :63], MASK, "a red ball", image_size="source")


def test_crop_to_mask_keeps_the_photos_size_and_its_other_pixels(
    demo_inpainter: Inpainter,
) -> None:
    result = paint(demo_inpainter, crop_to_mask=0.5)
    assert result.image.size == (120, 90)
    assert (result.source == PHOTO).all()
    assert (result.mask == (MASK > 0)).all()
    assert (pixels(result)[MASK == 0] == PHOTO[MASK == 0]).all()
    assert difference(pixels(result)[MASK > 0], PHOTO[MASK > 0]) > 10


def test_without_composite_the_whole_picture_is_the_models(demo_inpainter: Inpainter) -> None:
    result = paint(demo_inpainter, composite=False)
    assert difference(pixels(result)[~result.mask], result.source[~result.mask]) > 0


def test_same_seed_same_picture_other_seed_another(demo_inpainter: Inpainter) -> None:
    first, again, other = (paint(demo_inpainter, seed=seed) for seed in (7, 7, 8))
    assert (pixels(first) == pixels(again)).all()
    assert difference(pixels(first), pixels(other)) > 10


def test_drawn_seed_is_reported_and_repeats_the_picture(demo_inpainter: Inpainter) -> None:
    drawn = paint(demo_inpainter, seed=None)
    assert (pixels(paint(demo_inpainter, seed=drawn.seed)) == pixels(drawn)).all()


@pytest.mark.parametrize("blend", ["context", "diffusers"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_picture_k_alone_is_what_its_seed_gives(batch_size: int, blend: str) -> None:
    """With "diffusers", later pictures share the first one's posterior draw, as there."""
    with Inpainter.open(batch_size=batch_size) as inpainter:
        together = paint(inpainter, num_images=3, blend=blend)
        assert together.seeds == (7, 8, 9)
        assert together.seed == 7
        assert len(together.images) == 3
        assert len(together.timings.unet) == 2 * -(-3 // batch_size)
        for k, seed in enumerate(together.seeds[: 3 if blend == "context" else 1]):
            alone = pixels(paint(inpainter, seed=seed, blend=blend))
            # ONNX Runtime may sum a batch in another order: one level of 255 at most.
            assert difference(pixels(together, k), alone) <= (batch_size > 1)


@pytest.mark.parametrize(
    ("steps", "strength", "effective"), [(1, 0.95, 1), (4, 0.95, 3), (4, 1.0, 4), (8, 0.25, 2)]
)
def test_strength_decides_how_many_steps_run_and_is_reported(
    demo_inpainter: Inpainter, steps: int, strength: float, effective: int
) -> None:
    result = paint(demo_inpainter, steps=steps, strength=strength)
    assert (result.steps, result.strength) == (steps, strength)
    assert result.effective_steps == effective == len(result.timings.unet)


def test_only_full_strength_forgets_what_was_painted_over(demo_inpainter: Inpainter) -> None:
    everywhere = np.full_like(MASK, 255)

    def paint_over(photo: np.ndarray, strength: float) -> np.ndarray:
        options = SMALL | {"strength": strength}
        return pixels(demo_inpainter(photo, everywhere, "a red ball", **options))

    assert (paint_over(PHOTO, 1.0) == paint_over(255 - PHOTO, 1.0)).all()
    assert (paint_over(PHOTO, 0.95) != paint_over(255 - PHOTO, 0.95)).any()


def test_timings_cover_the_stages_and_add_up(fresh: Inpainter) -> None:
    timings = paint(fresh).timings.as_dict()
    stages = {name: np.sum(seconds) for name, seconds in timings.items() if name != "total"}
    assert all(seconds >= 0 for seconds in stages.values())
    assert min(stages[name] for name in ("text", "vae_encode", "unet", "vae_decode")) > 0
    assert sum(stages.values()) <= timings["total"]


def test_second_prompt_skips_the_encoder_and_second_seed_skips_both(
    fresh: Inpainter, runs: Counter[str]
) -> None:
    paint(fresh)
    first = Counter(text_encoder=1, text_encoder_2=1, vae_encoder=1, unet=2, vae_decoder=1)
    assert runs == first
    runs.clear()
    paint(fresh, "a blue ball")
    assert runs == Counter(text_encoder=1, text_encoder_2=1, unet=2, vae_decoder=1)
    runs.clear()
    paint(fresh, seed=8)
    assert runs == Counter(unet=2, vae_decoder=1)
    runs.clear()
    fresh(255 - PHOTO, MASK, "a red ball", **SMALL)
    assert runs == Counter(vae_encoder=1, unet=2, vae_decoder=1)
    runs.clear()
    paint(fresh, image_size=(64, 96))
    assert runs == Counter(vae_encoder=1, unet=2, vae_decoder=1)


def test_remembering_nothing_encodes_each_time_and_changes_no_picture(
    fresh: Inpainter, runs: Counter[str]
) -> None:
    with Inpainter.open(cache_bytes=0) as forgetful:
        pictures = [pixels(paint(inpainter)) for inpainter in (forgetful, forgetful, fresh, fresh)]
    assert runs["vae_encoder"] == runs["text_encoder"] == 3
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_every_step_is_reported_over_all_pictures(demo_inpainter: Inpainter) -> None:
    seen: list[Progress] = []
    paint(demo_inpainter, num_images=2, on_step=seen.append)
    assert [(progress.step, progress.of) for progress in seen] == [(i, 4) for i in range(1, 5)]
    assert all(progress.latents.shape == (1, 4, 8, 8) for progress in seen)
    assert all(np.isfinite(progress.latents).all() for progress in seen)


def test_callback_can_cancel_and_the_next_request_runs(
    fresh: Inpainter, runs: Counter[str]
) -> None:
    with pytest.raises(Cancelled, match="after step 2 of 8"):
        paint(fresh, steps=8, on_step=lambda progress: progress.step != 2)
    assert runs["unet"] == 2
    assert runs["vae_decoder"] == 0
    assert (pixels(paint(fresh)) == pixels(paint(fresh))).all()


def test_eight_threads_give_what_one_gives(fresh: Inpainter) -> None:
    requests = [
        {"prompt": prompt, "seed": seed, "image_size": size}
        for seed, (prompt, size) in enumerate(
            [("a red ball", (64, 64)), ("a blue ball", (96, 64)), ("grass", (64, 64))] * 4
        )
    ]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda options: paint(fresh, **options), requests))
    for options, result in zip(requests, parallel, strict=True):
        assert (pixels(result) == pixels(paint(fresh, **options))).all()
        assert result.seed == options["seed"]


def test_closed_inpainter_says_so_and_closes_twice() -> None:
    with Inpainter.open() as inpainter:
        paint(inpainter)
    inpainter.close()
    with pytest.raises(SessionError, match="this Inpainter is closed; open a new one"):
        paint(inpainter)


def test_step_count_without_a_unet_lists_those_there_are(demo_inpainter: Inpainter) -> None:
    with pytest.raises(ComponentMissing, match=r"no UNet for 3 steps \(it has 1, 2, 4, 8\)"):
        paint(demo_inpainter, steps=3)


def test_safety_checker_is_demanded_in_vain(
    fresh: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nsfw_classifier, "find_spec", lambda _: None)
    with pytest.raises(ComponentMissing, match="bundle has no safety_checker"):
        paint(fresh, enable_safety_checker=True)
    result = paint(fresh)
    assert (result.safety_checked, result.has_nsfw_concepts) == (False, (False,))


def test_long_prompt_is_reported_and_logged(
    fresh: Inpainter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "lightfill")
    start = "a ball " * 37 + "red "  # 75 tokens, all there is room for
    result = paint(fresh, start + "on green grass")
    assert result.truncated_prompt == "on green grass"
    assert "on green grass" in caplog.text
    assert "too long" in caplog.text
    caplog.clear()
    whole = paint(fresh, start)
    assert whole.truncated_prompt is None
    assert not caplog.text
    assert (pixels(whole) == pixels(result)).all()
    assert (pixels(whole) != pixels(paint(fresh, "a ball " * 37))).any(), "the last word counts"


def test_nan_from_the_model_is_an_error_not_a_black_picture(
    fresh: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OnnxRuntimeSession._run

    def broken(session: OnnxRuntimeSession, feed: Any) -> Any:
        results = real(session, feed)
        if session.component == "unet":
            results["prediction"][0, 0, 0, 0] = np.nan
        return results

    monkeypatch.setattr(OnnxRuntimeSession, "_run", broken)
    with pytest.raises(NonFiniteOutput, match="unet produced NaN or infinity in 'prediction'"):
        paint(fresh)
