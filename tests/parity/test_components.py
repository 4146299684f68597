"""Each exported component equals the module diffusers and transformers run, in float32."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from numpy.typing import NDArray

from lightfill.engine.bundle import Bundle
from lightfill.engine.sessions import SessionOptions, open_session

Arrays = Mapping[str, NDArray[Any]]
Size = tuple[int, int, int]

SIZES = ((1, 8, 8), (2, 12, 20))
"""Batch, height and width in latent cells: 64x64 pixels, and two pictures of 160x96."""
BOUND = 1e-4
"""Largest error allowed, relative to the largest value of the output."""
EOS = 49407
ONE_THREAD = SessionOptions(threads=1)


def text_encoder(
    pipeline: StableDiffusionXLInpaintPipeline, size: Size, rng: np.random.Generator
) -> tuple[Arrays, Arrays]:
    tower = pipeline.text_encoder
    ids = torch.from_numpy(token_ids(size, rng))
    states = tower(ids, output_hidden_states=True).hidden_states[-2]
    embeds = tower.get_input_embeddings()(ids)
    return {"inputs_embeds": embeds.numpy()}, {"hidden_states": states.numpy()}


def text_encoder_2(
    pipeline: StableDiffusionXLInpaintPipeline, size: Size, rng: np.random.Generator
) -> tuple[Arrays, Arrays]:
    tower = pipeline.text_encoder_2
    ids = token_ids(size, rng)
    found = tower(torch.from_numpy(ids), output_hidden_states=True)
    feed = {
        "inputs_embeds": tower.get_input_embeddings()(torch.from_numpy(ids)).numpy(),
        "eos_position": (ids == EOS).argmax(axis=1),
    }
    states = found.hidden_states[-2].numpy()
    return feed, {"hidden_states": states, "text_embeds": found.text_embeds.numpy()}


def unet(
    pipeline: StableDiffusionXLInpaintPipeline, size: Size, rng: np.random.Generator
) -> tuple[Arrays, Arrays]:
    batch, height, width = size
    config = pipeline.unet.config
    pooled = pipeline.text_encoder_2.config.projection_dim
    feed = {
        "sample": normal(rng, batch, 4, height, width),
        "timestep": np.array([749], np.float32),
        "encoder_hidden_states": normal(rng, batch, 77, config.cross_attention_dim),
        "text_embeds": normal(rng, batch, pooled),
        "time_ids": np.array([[8 * height, 8 * width, 0, 0, 8 * height, 8 * width]] * batch, "f4"),
    }
    sample, timestep, states, text, time = (torch.from_numpy(value) for value in feed.values())
    conditions = {"text_embeds": text, "time_ids": time}
    predicted = pipeline.unet(sample, timestep, states, added_cond_kwargs=conditions).sample
    return feed, {"prediction": predicted.numpy()}


def vae_encoder(
    pipeline: StableDiffusionXLInpaintPipeline, size: Size, rng: np.random.Generator
) -> tuple[Arrays, Arrays]:
    batch, height, width = size
    images = rng.uniform(-1, 1, (batch, 3, 8 * height, 8 * width)).astype(np.float32)
    posterior = pipeline.vae.encode(torch.from_numpy(images)).latent_dist
    return {"images": images}, {"moments": posterior.parameters.numpy()}


def vae_decoder(
    pipeline: StableDiffusionXLInpaintPipeline, size: Size, rng: np.random.Generator
) -> tuple[Arrays, Arrays]:
    latents = normal(rng, size[0], 4, *size[1:]) / np.float32(pipeline.vae.config.scaling_factor)
    pictures = pipeline.vae.decode(torch.from_numpy(latents)).sample
    return {"latents": latents}, {"images": pictures.numpy()}


def token_ids(size: Size, rng: np.random.Generator) -> NDArray[np.int64]:
    """Prompts of different lengths, the end-of-text token in another place in each."""
    ids = rng.integers(300, 49000, (size[0], 77))
    for row, prompt in enumerate(ids):
        prompt[5 + 30 * row :] = EOS
    return ids


def normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape, np.float32)


def psnr(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """In decibels, against the output's own range."""
    return float(20 * np.log10(np.ptp(wanted) / np.sqrt(np.square(found - wanted).mean())))


@torch.no_grad()
@pytest.mark.parametrize(
    "run_reference", [text_encoder, text_encoder_2, unet, vae_encoder, vae_decoder]
)
def test_component_equals_pytorch(
    run_reference: Callable[..., tuple[Arrays, Arrays]],
    bundle: Bundle,
    reference: StableDiffusionXLInpaintPipeline,
    record_property: Callable[[str, object], None],
) -> None:
    component = run_reference.__name__
    failures = []
    with open_session(bundle, component, options=ONE_THREAD) as session:
        for size in SIZES:
            feed, wanted = run_reference(reference, size, np.random.default_rng(7))
            found = session.run(feed)
            assert found.keys() == wanted.keys()
            for name, expected in wanted.items():
                assert found[name].shape == expected.shape
                assert expected.std() > 0.01, "a constant output would prove nothing"
                error = float(np.abs(found[name] - expected).max())
                largest = float(np.abs(expected).max())
                print(
                    f"{bundle.manifest.name:>14} {component:>14} {name:>13} {size!s:>12}"
                    f"  max error {error:.1e} of {largest:8.2f}"
                    f"  PSNR {psnr(found[name], expected):5.1f} dB"
                )
                record_property(f"{name} {size}", error / largest)
                if error > BOUND * largest:
                    failures.append((name, size, error, largest))
    assert not failures
