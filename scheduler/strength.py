"""Strength: how much of the schedule runs, hence how far the picture may leave its source."""


def effective_steps(steps: int, strength: float) -> int:
    """UNet calls that `strength` in (0, 1] leaves of `steps`: at least 1, at most `steps`.

    diffusers' rule, `int(steps * strength)`, floored in binary floating point as there, except that
    it never falls to zero: fal's default strength of 0.95 with 1 step runs that one step.
    """
    return max(1, min(int(steps * strength), steps))


def first_step(steps: int, strength: float) -> int:
    """Index in the schedule of the first step that runs (0: all of them)."""
    return steps - effective_steps(steps, strength)
