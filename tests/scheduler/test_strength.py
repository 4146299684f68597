"""Strength to effective steps: the table, the formula, and diffusers' own rule."""

import pytest
from diffusers import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from lightfill.scheduler import effective_steps, first_step, trailing_schedule

STRENGTHS = (0.25, 0.5, 0.75, 0.9, 0.95, 0.9999, 1.0)
STEPS_RUN_BY_DIFFUSERS = {
    1: (0, 0, 0, 0, 0, 0, 1),
    2: (0, 1, 1, 1, 1, 1, 2),
    4: (1, 2, 3, 3, 3, 3, 4),
    8: (2, 4, 6, 7, 7, 7, 8),
}
"""Zero is where diffusers raises ValueError; there lightfill runs one step."""
TABLE = [
    (steps, strength, run)
    for steps, row in STEPS_RUN_BY_DIFFUSERS.items()
    for strength, run in zip(STRENGTHS, row, strict=True)
]

any_steps = st.integers(1, 1000)
any_strength = st.floats(0.01, 1.0)


def diffusers_timesteps(steps: int, strength: float) -> list[float]:
    """What `StableDiffusionXLInpaintPipeline.get_timesteps` keeps of a schedule, by its own code.

    Called unbound: it uses nothing of the pipeline but its scheduler.
    """
    from diffusers import StableDiffusionXLInpaintPipeline

    class HasScheduler:
        scheduler = EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="trailing",
        )

    HasScheduler.scheduler.set_timesteps(steps)
    kept, count = StableDiffusionXLInpaintPipeline.get_timesteps(
        HasScheduler(), steps, strength, "cpu"
    )
    assert count == len(kept)
    return kept.tolist()


@pytest.mark.parametrize(("steps", "strength", "run"), TABLE)
def test_table_with_a_floor_of_one(steps: int, strength: float, run: int) -> None:
    assert effective_steps(steps, strength) == max(run, 1)
    assert first_step(steps, strength) == steps - max(run, 1)


@pytest.mark.parametrize(("steps", "strength", "run"), TABLE)
def test_the_steps_kept_are_those_diffusers_keeps(steps: int, strength: float, run: int) -> None:
    kept = trailing_schedule(steps).starting_at(first_step(steps, strength)).timesteps.tolist()
    theirs = diffusers_timesteps(steps, strength)
    assert len(theirs) == run
    assert kept == (theirs or trailing_schedule(steps).timesteps[-1:].tolist())


def test_fals_default_of_four_steps_at_095_runs_three_from_749() -> None:
    schedule = trailing_schedule(4).starting_at(first_step(4, 0.95))
    assert schedule.timesteps.tolist() == [749, 499, 249]
    assert schedule.sigmas[0] == pytest.approx(4.08173, abs=5e-6)


def test_product_is_floored_in_binary_floating_point_as_in_diffusers() -> None:
    assert int(100 * 0.29) == 28  # 28.999999999999996: a tolerance would give 29
    assert effective_steps(100, 0.29) == 28
    assert len(diffusers_timesteps(100, 0.29)) == 28


@given(steps=any_steps, strength=any_strength)
def test_formula_holds_everywhere(steps: int, strength: float) -> None:
    run = effective_steps(steps, strength)
    assert run == max(1, min(int(steps * strength), steps))
    assert 1 <= run <= steps
    assert first_step(steps, strength) == steps - run


@given(steps=any_steps, strength=any_strength, more=any_strength)
def test_more_strength_never_runs_fewer_steps(steps: int, strength: float, more: float) -> None:
    low, high = sorted((strength, more))
    assert effective_steps(steps, low) <= effective_steps(steps, high)


@given(steps=any_steps)
def test_strength_one_runs_every_step(steps: int) -> None:
    assert effective_steps(steps, 1.0) == steps


@given(steps=st.integers(1, 60), strength=any_strength)
def test_count_equals_diffusers_wherever_diffusers_runs(steps: int, strength: float) -> None:
    theirs = len(diffusers_timesteps(steps, strength))
    assert effective_steps(steps, strength) == max(theirs, 1)
