"""The mask-blend loop with a small fake UNet: what is held, what is fed, progress, cancelling."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightfill.engine.canvas import Canvas, Window
from lightfill.engine.denoise import (
    Blend,
    Known,
    Progress,
    denoise,
    reporter,
    starting_latents,
)
from lightfill.engine.errors import Cancelled
from lightfill.engine.preview import Previewer
from lightfill.engine.sessions import Session, TensorSpec
from lightfill.engine.text import Conditioning
from lightfill.scheduler import (
    Prediction,
    Schedule,
    denoised,
    euler_step,
    noised,
    trailing_schedule,
)

HEIGHT, WIDTH = 6, 5
CONDITIONING = Conditioning(
    hidden_states=np.linspace(-1, 1, 77 * 10, dtype=np.float32).reshape(1, 77, 10),
    text_embeds=np.ones((1, 3), np.float32),
    truncated=None,
)


class FakeUNet(Session):
    """A bounded nonlinear function in which every cell sees its neighbours; keeps every feed."""

    def __init__(self, dtype: type = np.float32) -> None:
        def spec(kind: type, *shape: int | str) -> TensorSpec:
            return TensorSpec(np.dtype(kind), shape)

        latents = spec(dtype, "batch", 4, "height", "width")
        inputs = {
            "sample": latents,
            "timestep": spec(np.float32, 1),
            "encoder_hidden_states": spec(dtype, "batch", 77, 10),
            "text_embeds": spec(np.float32, "batch", 3),
            "time_ids": spec(np.float32, "batch", 6),
        }
        super().__init__("unet", "null", inputs, {"prediction": latents})
        self.feeds: list[dict[str, np.ndarray]] = []

    def _run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.feeds.append({name: array.copy() for name, array in feed.items()})
        sample = feed["sample"]
        around = sum(np.roll(sample, shift, axis) for axis in (2, 3) for shift in (-1, 1))
        mixed = np.tanh(sample + 0.5 * around + feed["timestep"] / 1000)
        return {"prediction": mixed.astype(sample.dtype)}

    def close(self) -> None:
        pass


def random_known(mask: np.ndarray, batch: int = 1, seed: int = 0) -> Known:
    generator = np.random.default_rng(seed)
    clean = generator.standard_normal((1, 4, *mask.shape)).astype(np.float32)
    noise = generator.standard_normal((batch, 4, *mask.shape)).astype(np.float32)
    return Known(clean, noise, mask.astype(np.float32)[None, None])


def run(known: Known, schedule: Schedule, blend: Blend, *, pure_noise: bool) -> np.ndarray:
    x = starting_latents(known, float(schedule.sigmas[0]), pure_noise=pure_noise)
    return denoise(FakeUNet(), x, known, schedule, CONDITIONING, blend)


def half_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, 2:] = True
    return mask


masks = arrays(np.bool_, (HEIGHT, WIDTH))
step_counts = st.integers(2, 8)


@given(mask=masks, steps=step_counts, first=st.integers(1, 7), seed=st.integers(0, 9))
@pytest.mark.parametrize("prediction", Prediction)
def test_below_strength_one_both_blends_give_the_same(
    prediction: Prediction, mask: np.ndarray, steps: int, first: int, seed: int
) -> None:
    """The starting latents then are the known ones already: blending early changes nothing."""
    schedule = trailing_schedule(steps, prediction).starting_at(min(first, steps - 1))
    known = random_known(mask, seed=seed)
    early = run(known, schedule, Blend.CONTEXT, pure_noise=False)
    late = run(known, schedule, Blend.DIFFUSERS, pure_noise=False)
    assert (early == late).all()


def test_at_strength_one_only_the_context_blend_shows_the_context() -> None:
    known, schedule = random_known(half_mask()), trailing_schedule(4)
    first_feeds = {}
    for blend in Blend:
        unet = FakeUNet()
        x = starting_latents(known, float(schedule.sigmas[0]), pure_noise=True)
        denoise(unet, x, known, schedule, CONDITIONING, blend)
        first_feeds[blend] = unet.feeds[0]["sample"][:, :, :, :2]
    sigma = float(schedule.sigmas[0])
    scale = math.sqrt(sigma**2 + 1)
    context = noised(known.clean, known.noise, sigma)[..., :2] / scale
    np.testing.assert_allclose(first_feeds[Blend.CONTEXT], context, rtol=1e-5, atol=1e-6)
    noise_alone = sigma * known.noise[..., :2] / scale
    np.testing.assert_allclose(first_feeds[Blend.DIFFUSERS], noise_alone, rtol=1e-5, atol=1e-6)


@given(mask=masks, steps=st.integers(1, 8))
@pytest.mark.parametrize("pure_noise", [True, False])
@pytest.mark.parametrize("blend", Blend)
def test_known_cells_come_out_clean_and_painted_ones_do_not(
    blend: Blend, pure_noise: bool, mask: np.ndarray, steps: int
) -> None:
    known = random_known(mask)
    result = run(known, trailing_schedule(steps), blend, pure_noise=pure_noise)
    assert result.dtype == np.float32
    assert (result[:, :, ~mask] == known.clean[:, :, ~mask]).all()
    if mask.any():
        assert not np.allclose(result[:, :, mask], known.clean[:, :, mask], atol=1e-4)


def test_loop_is_scale_predict_euler_blend() -> None:
    """Written out for two steps with the scheduler's own formulas."""
    known, schedule = random_known(half_mask()), trailing_schedule(2, Prediction.V_PREDICTION)
    sigmas = [float(sigma) for sigma in schedule.sigmas]
    x = sigmas[0] * known.noise
    unet = FakeUNet()
    for i in range(2):
        x = np.where(known.mask == 1, x, noised(known.clean, known.noise, sigmas[i]))
        sample = (x / math.sqrt(sigmas[i] ** 2 + 1)).astype(np.float32)
        feed = {"sample": sample, "timestep": schedule.timesteps[i : i + 1]}
        estimate = denoised(x, unet._run(feed)["prediction"], sigmas[i], schedule.prediction)
        x = euler_step(x, estimate, sigmas[i], sigmas[i + 1])
    expected = np.where(known.mask == 1, x, known.clean)
    result = run(known, schedule, Blend.CONTEXT, pure_noise=True)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_unet_is_fed_the_batch_in_its_own_dtypes(dtype: type) -> None:
    known, schedule, unet = (
        random_known(half_mask(), batch=3),
        trailing_schedule(4),
        FakeUNet(dtype),
    )
    x = starting_latents(known, float(schedule.sigmas[0]), pure_noise=True)
    result = denoise(unet, x, known, schedule, CONDITIONING)
    assert result.shape == (3, 4, HEIGHT, WIDTH)
    assert result.dtype == np.float32
    assert [feed["timestep"].tolist() for feed in unet.feeds] == [[999], [749], [499], [249]]
    for feed in unet.feeds:
        assert feed["sample"].shape == (3, 4, HEIGHT, WIDTH)
        assert feed["sample"].dtype == feed["encoder_hidden_states"].dtype == dtype
        assert feed["encoder_hidden_states"].shape == (3, 77, 10)
        assert feed["text_embeds"].shape == (3, 3)
        pixels = [HEIGHT * 8, WIDTH * 8]
        assert feed["time_ids"].tolist() == [[*pixels, 0, 0, *pixels]] * 3


def test_a_batch_gives_what_each_gives_alone() -> None:
    together = random_known(half_mask(), batch=3)
    schedule = trailing_schedule(4)
    batched = run(together, schedule, Blend.CONTEXT, pure_noise=True)
    for i in range(3):
        alone = Known(together.clean, together.noise[i : i + 1], together.mask)
        single = run(alone, schedule, Blend.CONTEXT, pure_noise=True)
        assert (single[0] == batched[i]).all()


def test_every_call_is_reported_with_its_estimate_and_seconds() -> None:
    known, schedule = random_known(half_mask()), trailing_schedule(4)
    x = starting_latents(known, float(schedule.sigmas[0]), pure_noise=True)
    seen: list[tuple[np.ndarray, float]] = []
    result = denoise(
        FakeUNet(), x, known, schedule, CONDITIONING, on_step=lambda *args: seen.append(args)
    )
    assert len(seen) == 4
    assert all(seconds >= 0 for _, seconds in seen)
    painted = np.broadcast_to(known.mask == 1, result.shape)
    last_estimate, _ = seen[-1]
    np.testing.assert_allclose(last_estimate[painted], result[painted], atol=1e-5)


def unseen() -> Previewer:
    """For callbacks that ask for no preview."""
    window, clean = Window(0, 0, 16, 16), np.zeros((1, 4, 2, 2), np.float32)
    pixels = np.zeros((16, 16, 3), np.uint8)
    return Previewer(Canvas(pixels, pixels[..., 0] > 0, window, window), clean)


def cancel_at(step: int) -> Callable[[Progress], bool | None]:
    return lambda progress: False if progress.step == step else None


def test_callback_returning_false_cancels_between_steps() -> None:
    known, schedule, unet = random_known(half_mask()), trailing_schedule(4), FakeUNet()
    durations: list[float] = []
    report = reporter(cancel_at(2), 4, durations, unseen())
    with pytest.raises(Cancelled, match="after step 2 of 4"):
        denoise(unet, known.noise, known, schedule, CONDITIONING, on_step=report)
    assert len(unet.feeds) == len(durations) == 2


@pytest.mark.parametrize("answer", [None, True, 0, "", []])
def test_callback_returning_anything_else_goes_on(answer: object) -> None:
    seen: list[Progress] = []

    def on_step(progress: Progress) -> object:
        seen.append(progress)
        return answer

    report = reporter(on_step, 2, [], unseen())
    estimate = np.zeros((1, 4, 2, 2), np.float32)
    report(estimate, 0.1)
    report(estimate, 0.2)
    assert [(progress.step, progress.of) for progress in seen] == [(1, 2), (2, 2)]
    assert seen[0].latents is estimate


def test_without_a_callback_seconds_are_still_kept() -> None:
    durations: list[float] = []
    reporter(None, 1, durations, unseen())(np.zeros(1, np.float32), 0.25)
    assert durations == [0.25]
