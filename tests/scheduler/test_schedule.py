"""Timesteps and sigmas: the published tables, diffusers' own values, and what they must not be."""

import numpy as np
import pytest
from diffusers import EulerDiscreteScheduler

from lightfill.scheduler import NoiseConstants, Prediction, trailing_schedule

LIGHTNING = {
    1: ([999], [14.61466, 0]),
    2: ([999, 499], [14.61466, 1.61289, 0]),
    4: ([999, 749, 499, 249], [14.61466, 4.08173, 1.61289, 0.69321, 0]),
    8: (
        [999, 874, 749, 624, 499, 374, 249, 124],
        [14.61466, 7.29736, 4.08173, 2.49253, 1.61289, 1.06895, 0.69321, 0.39775, 0],
    ),
}
"""SDXL-Lightning's four schedules: timesteps and sigmas, to seven digits or five decimals."""

EXTRA_TIMESTEP_IN_DIFFUSERS = 61
"""np.arange(1000, 0, -1000 / 61) has 62 elements: its end point misses 0 by a rounding error."""


def diffusers_schedule(steps: int, spacing: str = "trailing") -> EulerDiscreteScheduler:
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing=spacing,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", LIGHTNING)
def test_lightning_schedules_are_the_published_ones(steps: int) -> None:
    timesteps, sigmas = LIGHTNING[steps]
    schedule = trailing_schedule(steps)
    assert schedule.timesteps.tolist() == timesteps
    np.testing.assert_allclose(schedule.sigmas, sigmas, rtol=1e-6, atol=5e-6)
    assert schedule.steps == steps


def test_training_sigmas_have_the_published_ends() -> None:
    sigmas = NoiseConstants().training_sigmas()
    assert sigmas.shape == (1000,)
    assert sigmas.dtype == np.float32
    assert sigmas[0] == pytest.approx(0.029167, abs=1e-6)
    assert 1 / (1 + float(sigmas[-1]) ** 2) == pytest.approx(0.00466, abs=5e-6)
    assert (np.diff(sigmas) > 0).all()


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("steps", [2, 4, 8])
def test_other_spacings_are_not_what_we_use(steps: int, spacing: str) -> None:
    other = diffusers_schedule(steps, spacing)
    ours = trailing_schedule(steps)
    assert ours.timesteps.tolist() != other.timesteps.tolist()
    assert not np.allclose(ours.sigmas, other.sigmas.numpy(), rtol=1e-3)


def test_negative_controls_are_the_known_wrong_values() -> None:
    leading = diffusers_schedule(4, "leading").sigmas.numpy()
    np.testing.assert_allclose(leading[:4], [4.1167, 1.6237, 0.6984, 0.0413], atol=5e-5)
    assert diffusers_schedule(4, "linspace").timesteps.tolist() == [999, 666, 333, 0]


@pytest.mark.parametrize("steps", [*range(1, 101), 125, 128, 250, 333, 500, 999, 1000])
def test_values_equal_diffusers_for_every_step_count(steps: int) -> None:
    theirs = diffusers_schedule(steps)
    ours = trailing_schedule(steps)
    assert ours.steps == steps
    assert len(ours.sigmas) == steps + 1
    assert ours.timesteps.dtype == ours.sigmas.dtype == np.float32
    # The first N: for some N diffusers has one more (see the next test).
    assert ours.timesteps.tolist() == theirs.timesteps[:steps].tolist()
    np.testing.assert_allclose(ours.sigmas[:-1], theirs.sigmas[:steps].numpy(), rtol=1e-6, atol=0)
    assert ours.sigmas[-1] == theirs.sigmas[-1] == 0
    if len(theirs.timesteps) != steps:
        assert theirs.timesteps[steps:].tolist() == [-1]


def test_no_step_is_added_where_diffusers_adds_one() -> None:
    steps = EXTRA_TIMESTEP_IN_DIFFUSERS
    theirs = diffusers_schedule(steps)
    assert len(theirs.timesteps) == steps + 1
    assert theirs.timesteps[-1] == -1
    ours = trailing_schedule(steps)
    assert ours.steps == steps
    assert ours.timesteps[-1] >= 0


def test_schedule_descends_to_zero_for_other_constants() -> None:
    constants = NoiseConstants(num_train_timesteps=50, beta_start=0.001, beta_end=0.02)
    schedule = trailing_schedule(7, Prediction.SAMPLE, constants)
    assert schedule.prediction is Prediction.SAMPLE
    assert schedule.timesteps[0] == 49
    assert (np.diff(schedule.sigmas) < 0).all()
    assert schedule.sigmas[0] == constants.training_sigmas()[49]


def test_starting_later_keeps_the_tail() -> None:
    whole = trailing_schedule(8, Prediction.V_PREDICTION)
    tail = whole.starting_at(3)
    assert tail.steps == 5
    assert tail.timesteps.tolist() == whole.timesteps[3:].tolist()
    assert tail.sigmas.tolist() == whole.sigmas[3:].tolist()
    assert tail.prediction is Prediction.V_PREDICTION
    assert whole.starting_at(0).sigmas.tolist() == whole.sigmas.tolist()


@pytest.mark.parametrize("index", [-1, 4, 100])
def test_starting_outside_the_schedule_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=rf"first step {index} is outside 0\.\.3"):
        trailing_schedule(4).starting_at(index)


@pytest.mark.parametrize("steps", [-4, 0, 1001])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps must be 1\.\.1000, got {steps}"):
        trailing_schedule(steps)
