"""How long each phase of the embedded model's training is, and on what."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Updates of the UNet on scenes of one size.

    edge: pixels a side. scenes: how many different ones. pairs: of an update.
    on_policy: share of updates that run the blend loop.
    """

    name: str
    edge: int
    scenes: int
    updates: int
    pairs: int
    on_policy: float
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """The whole training: the VAE, the text encoders alone, then the UNet at growing sizes."""

    seed: int
    vae_edge: int
    vae_batch: int
    vae_updates: int
    text_updates: int
    text_batch: int
    stages: tuple[Stage, ...]


def recipe(seed: int) -> Recipe:
    """What made the embedded model. Small pictures until shapes are there: they cost a quarter."""
    return Recipe(
        seed=seed,
        vae_edge=128,
        vae_batch=8,
        vae_updates=1200,
        text_updates=300,
        text_batch=64,
        stages=(
            Stage("denoiser-128", 128, 6000, 7000, 16, 0.5, 8e-4),
            Stage("denoiser-256", 256, 2000, 1000, 6, 0.6, 4e-4),
        ),
    )


def rehearsal(seed: int) -> Recipe:
    """A few updates of everything, on small pictures: does the program run?"""
    return Recipe(
        seed=seed,
        vae_edge=64,
        vae_batch=2,
        vae_updates=3,
        text_updates=3,
        text_batch=8,
        stages=(
            Stage("denoiser-64", 64, 12, 3, 4, 0.5, 8e-4),
            Stage("denoiser-96", 96, 8, 3, 3, 1.0, 4e-4),
        ),
    )
