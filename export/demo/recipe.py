"""How long each phase of the embedded model's training is, and on what."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stage:
    """Updates of the UNet on scenes of one size.

    edge: pixels a side. scenes: how many different ones. count: of an update. paired: two noises
    each, scored as samples.
    """

    name: str
    edge: int
    scenes: int
    updates: int
    count: int
    paired: bool
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
    """For the next embedded model. Small pictures first: they cost a quarter."""
    return Recipe(
        seed=seed,
        vae_edge=128,
        vae_batch=8,
        vae_updates=1200,
        text_updates=300,
        text_batch=64,
        stages=(
            Stage("loops-128", 128, 5000, 2000, 28, False, 1e-3),
            Stage("loops-256", 256, 2500, 2000, 12, False, 8e-4),
            Stage("textures-256", 256, 2000, 400, 6, True, 3e-4),
        ),
    )


def continuation(seed: int) -> Recipe:
    """For a model that is trained already: its UNet learns to see the mask, at its natural size."""
    stages = (Stage("further-256", 256, 640, 320, 16, False, 8e-4),)
    return replace(recipe(seed), stages=stages)


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
            Stage("loops-64", 64, 12, 3, 4, False, 8e-4),
            Stage("textures-96", 96, 8, 3, 3, True, 4e-4),
        ),
    )
