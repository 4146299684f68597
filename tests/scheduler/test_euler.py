"""Euler steps against diffusers' EulerDiscreteScheduler over whole trajectories."""

import math

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightfill.scheduler import (
    Prediction,
    denoised,
    euler_step,
    noised,
    scaled_input,
    trailing_schedule,
)

TOLERANCE = 1e-5
"""Largest difference allowed anywhere on a trajectory, relative to the largest |x| of its step."""
SHAPE = (2, 4, 8, 8)
STEP_COUNTS = [1, 2, 3, 4, 5, 7, 8, 13, 30, 50]

latents = arrays(np.float32, (3, 4), elements=st.floats(-20, 20, width=32))
sigmas = st.floats(0.02, 20)


class FakeUNet:
    """A fixed nonlinear function of the scaled latents and the timestep, the same in both worlds.

    tanh of a random linear mix: bounded, so no prediction type can make a trajectory explode.
    """

    def __init__(self, seed: int) -> None:
        size = math.prod(SHAPE[1:])
        generator = np.random.default_rng(seed)
        self._mix = (generator.standard_normal((size, size)) / math.sqrt(size)).astype(np.float32)

    def __call__(self, x: np.ndarray, timestep: float) -> np.ndarray:
        flat = x.reshape(len(x), -1)
        output = np.tanh(flat @ self._mix + np.float32(timestep / 1000))
        return output.reshape(x.shape).astype(np.float32)


def diffusers_scheduler(steps: int, prediction: Prediction) -> EulerDiscreteScheduler:
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        prediction_type=prediction.value,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def random_latents(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype == np.float32
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert difference <= TOLERANCE, f"relative difference {difference:.2e}"


@pytest.mark.parametrize("prediction", Prediction)
@pytest.mark.parametrize("steps", STEP_COUNTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_step_of_a_trajectory_equals_diffusers(
    steps: int, prediction: Prediction, seed: int
) -> None:
    unet = FakeUNet(seed)
    scheduler = diffusers_scheduler(steps, prediction)
    schedule = trailing_schedule(steps, prediction)
    start = random_latents(seed)
    ours = np.float32(schedule.sigmas[0]) * start
    theirs = torch.from_numpy(start) * scheduler.sigmas[0]
    for i, timestep in enumerate(schedule.timesteps):
        sigma, sigma_next = float(schedule.sigmas[i]), float(schedule.sigmas[i + 1])
        shown = scaled_input(ours, sigma)
        shown_by_diffusers = scheduler.scale_model_input(theirs, scheduler.timesteps[i]).numpy()
        assert_close(shown, shown_by_diffusers)

        estimate = denoised(ours, unet(shown, float(timestep)), sigma, prediction)
        ours = euler_step(ours, estimate, sigma, sigma_next)
        output = torch.from_numpy(unet(shown_by_diffusers, float(scheduler.timesteps[i])))
        stepped = scheduler.step(output, scheduler.timesteps[i], theirs)
        theirs = stepped.prev_sample
        assert_close(estimate, stepped.pred_original_sample.numpy())
        assert_close(ours, theirs.numpy())


def test_prediction_types_are_told_apart() -> None:
    """The comparison above could not fail if all three meant the same."""
    x, output = random_latents(0), random_latents(1)
    estimates = [denoised(x, output, 1.5, prediction) for prediction in Prediction]
    for i, one in enumerate(estimates):
        for other in estimates[i + 1 :]:
            assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("steps", STEP_COUNTS)
def test_noising_equals_diffusers_add_noise(steps: int) -> None:
    scheduler = diffusers_scheduler(steps, Prediction.EPSILON)
    schedule = trailing_schedule(steps)
    clean, noise = random_latents(3), random_latents(4)
    for timestep, sigma in zip(scheduler.timesteps, schedule.sigmas[:-1], strict=True):
        theirs = scheduler.add_noise(
            torch.from_numpy(clean), torch.from_numpy(noise), timestep.repeat(len(clean))
        )
        assert_close(noised(clean, noise, float(sigma)), theirs.numpy())


@given(x=latents, estimate=latents, sigma=sigmas)
def test_stepping_to_zero_returns_the_estimate(
    x: np.ndarray, estimate: np.ndarray, sigma: float
) -> None:
    np.testing.assert_allclose(euler_step(x, estimate, sigma, 0.0), estimate, atol=2e-5)


@given(x=latents, estimate=latents, sigma=sigmas)
def test_stepping_nowhere_changes_nothing(
    x: np.ndarray, estimate: np.ndarray, sigma: float
) -> None:
    assert euler_step(x, estimate, sigma, sigma).tolist() == x.tolist()


@given(clean=latents, noise=latents, sigma=sigmas, sigma_next=sigmas)
def test_step_with_a_perfect_estimate_stays_on_the_noise_line(
    clean: np.ndarray, noise: np.ndarray, sigma: float, sigma_next: float
) -> None:
    stepped = euler_step(noised(clean, noise, sigma), clean, sigma, sigma_next)
    expected = noised(clean, noise, sigma_next)
    scale = float(np.abs(clean).max() + max(sigma, sigma_next) * np.abs(noise).max()) + 1
    error = scale * max(1.0, sigma_next / sigma) * 1e-6
    np.testing.assert_allclose(stepped, expected, rtol=0, atol=error)


@given(clean=latents, noise=latents, sigma=sigmas)
def test_true_noise_as_epsilon_gives_the_clean_latents(
    clean: np.ndarray, noise: np.ndarray, sigma: float
) -> None:
    estimate = denoised(noised(clean, noise, sigma), noise, sigma, Prediction.EPSILON)
    np.testing.assert_allclose(estimate, clean, atol=1e-6 * (20 + 20 * sigma))


@given(clean=latents, noise=latents, sigma=sigmas)
def test_true_velocity_gives_the_clean_latents(
    clean: np.ndarray, noise: np.ndarray, sigma: float
) -> None:
    """v = alpha n - s z0 with alpha = 1/sqrt(sigma^2+1), s = sigma alpha (Salimans & Ho 2022)."""
    alpha = 1 / math.sqrt(sigma * sigma + 1)
    velocity = (np.float32(alpha) * noise - np.float32(sigma * alpha) * clean).astype(np.float32)
    estimate = denoised(noised(clean, noise, sigma), velocity, sigma, Prediction.V_PREDICTION)
    np.testing.assert_allclose(estimate, clean, atol=2e-4)


@given(x=latents, output=latents, sigma=sigmas)
def test_sample_prediction_is_the_output_itself(
    x: np.ndarray, output: np.ndarray, sigma: float
) -> None:
    assert denoised(x, output, sigma, Prediction.SAMPLE).tolist() == output.tolist()


@given(sigma=sigmas)
def test_scaled_input_has_unit_variance_for_unit_data(sigma: float) -> None:
    x = np.full((1, 4), math.sqrt(sigma * sigma + 1), np.float32)
    np.testing.assert_allclose(scaled_input(x, sigma), 1, rtol=1e-6)


def test_formulas_keep_float32_and_their_arguments() -> None:
    x, other = random_latents(5), random_latents(6)
    kept = x.copy(), other.copy()
    results = [
        noised(x, other, 2.0),
        scaled_input(x, 2.0),
        euler_step(x, other, 2.0, 1.0),
        *(denoised(x, other, 2.0, prediction) for prediction in Prediction),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}
    assert (x == kept[0]).all()
    assert (other == kept[1]).all()
