"""A bundle's schedule: what its UNet for a step count was distilled for."""

from ..scheduler import NoiseConstants, Schedule, trailing_schedule
from .bundle import Bundle


def schedule_of(bundle: Bundle, steps: int) -> Schedule:
    """All of the schedule of `steps` steps; ComponentMissing where no UNet serves that count."""
    constants = bundle.manifest.scheduler
    return trailing_schedule(
        steps,
        bundle.unet(steps).prediction,
        NoiseConstants(
            num_train_timesteps=constants.num_train_timesteps,
            beta_start=constants.beta_start,
            beta_end=constants.beta_end,
        ),
    )
