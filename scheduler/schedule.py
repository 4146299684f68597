"""The noise schedule: which timesteps are visited, and the noise level sigma at each."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Prediction(StrEnum):
    """What a UNet's output means; the values are diffusers' `prediction_type` names."""

    EPSILON = "epsilon"
    """The noise n in x = z0 + sigma * n (SDXL-Lightning, 2, 4 and 8 steps)."""
    SAMPLE = "sample"
    """The clean latents z0 themselves (SDXL-Lightning, 1 step)."""
    V_PREDICTION = "v_prediction"
    """Velocity (Salimans & Ho 2022, section 4): between noise and clean latents."""


@dataclass(frozen=True, kw_only=True)
class NoiseConstants:
    """The training noise process: betas are linear in their square root ("scaled_linear")."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def training_sigmas(self) -> NDArray[np.float32]:
        """Noise level of every training timestep: (num_train_timesteps,) float32, ascending.

        sigma_t = sqrt((1 - abar_t) / abar_t), abar = cumprod(1 - beta) (Ho et al. 2020, eq. 4).
        Betas are float32 as in diffusers; the product runs in float64, as torch accumulates it.
        """
        roots = np.linspace(
            self.beta_start**0.5, self.beta_end**0.5, self.num_train_timesteps, dtype=np.float32
        )
        alphas = np.float32(1) - roots * roots
        alphas_cumprod = np.cumprod(alphas, dtype=np.float64).astype(np.float32)
        sigmas: NDArray[np.float32] = np.sqrt((np.float32(1) - alphas_cumprod) / alphas_cumprod)
        return sigmas


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One resolved run: N timesteps and N + 1 noise levels, both descending, the last sigma 0."""

    timesteps: NDArray[np.float32]
    sigmas: NDArray[np.float32]
    prediction: Prediction

    @property
    def steps(self) -> int:
        """Number of UNet calls, N."""
        return len(self.timesteps)

    def starting_at(self, index: int) -> "Schedule":
        """The tail of this schedule from step `index` (0 is the whole of it)."""
        if not 0 <= index < self.steps:
            raise ValueError(f"first step {index} is outside 0..{self.steps - 1}")
        return Schedule(
            timesteps=self.timesteps[index:],
            sigmas=self.sigmas[index:],
            prediction=self.prediction,
        )


def trailing_schedule(
    steps: int,
    prediction: Prediction = Prediction.EPSILON,
    constants: NoiseConstants | None = None,
) -> Schedule:
    """The `steps` timesteps Lightning was distilled on: evenly spaced, ending at the noisiest.

    "Trailing" spacing (Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps Are
    Flawed", table 2): t = round(arange(T, 0, -T/N)) - 1, half to even. `steps` is 1..T.
    """
    constants = constants or NoiseConstants()
    train_steps = constants.num_train_timesteps
    if not 1 <= steps <= train_steps:
        raise ValueError(f"steps must be 1..{train_steps}, got {steps}")
    # arange's floating-point end point can add an element for some N; N is what was asked for.
    timesteps = np.arange(train_steps, 0, -train_steps / steps)[:steps].round() - 1
    sigmas = constants.training_sigmas()[timesteps.astype(np.int64)]
    return Schedule(
        timesteps=timesteps.astype(np.float32),
        sigmas=np.append(sigmas, np.float32(0)),
        prediction=prediction,
    )
