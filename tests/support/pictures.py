"""One photo, one mask, one prompt: our picture of them and that of diffusers' pipeline."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lightfill.engine.pipeline import Inpainter
from lightfill.engine.textual_inversion import Embedding

PROMPT = "a blue circle on the grass"
SEED = 1234

Pixels = NDArray[np.uint8]


def photo(size: tuple[int, int] = (203, 157)) -> Image.Image:
    """Gradients, a disc and speckle: every frequency the VAE may treat differently."""
    width, height = size
    down, across = np.mgrid[:height, :width]
    red, green = 255 * across / width, 255 * down / height
    blue = 255 * np.hypot(across - width / 2, down - height / 2).clip(0, height / 2) / height
    speckle = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    pixels = np.stack([red, green, blue], axis=-1) + speckle
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def soft_mask(size: tuple[int, int] = (120, 90)) -> Image.Image:
    """An ellipse with grey edges, of neither the photo's size nor its shape."""
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((25, 15, 95, 75), fill=255, outline=128, width=3)
    return mask


def our_picture(
    inpainter: Inpainter,
    size: tuple[int, int],
    *,
    steps: int,
    prompt: str = PROMPT,
    embeddings: Sequence[Embedding] = (),
) -> Pixels:
    """At full strength, with every switch as diffusers has it."""
    result = inpainter(
        photo(), soft_mask(), prompt, image_size=size, steps=steps, strength=1.0, seed=SEED,
        fit="stretch", blend="diffusers", composite=False, embeddings=embeddings,
    )  # fmt: skip
    return np.asarray(result.images[0])


def diffusers_picture(
    pipeline: StableDiffusionXLInpaintPipeline,
    size: tuple[int, int],
    *,
    steps: int,
    strength: float,
    image: Image.Image,
    mask: Image.Image,
    prompt: str = PROMPT,
) -> Pixels:
    result = pipeline(
        prompt,
        image=image,
        mask_image=mask,
        width=size[0],
        height=size[1],
        num_inference_steps=steps,
        strength=strength,
        guidance_scale=0.0,
        generator=torch.Generator("cpu").manual_seed(SEED),
    )
    return np.asarray(result.images[0])


def largest_difference(ours: Pixels, theirs: Pixels) -> int:
    assert ours.shape == theirs.shape
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())
