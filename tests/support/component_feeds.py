"""Inputs for every component of the demo model, the shapes that come out, and how to run one."""

import numpy as np

from lightfill.engine.bundle import Bundle
from lightfill.engine.sessions import open_session
from lightfill.engine.sessions.base import Feed


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


FEEDS: dict[str, dict[str, np.ndarray]] = {
    "text_encoder": {"inputs_embeds": random(1, 77, 32)},
    "text_encoder_2": {"inputs_embeds": random(1, 77, 48), "eos_position": np.array([5])},
    "unet": {
        "sample": random(2, 4, 8, 12),
        "timestep": np.array([749], np.float32),
        "encoder_hidden_states": random(2, 77, 80),
        "text_embeds": random(2, 48),
        "time_ids": np.array([[64, 96, 0, 0, 64, 96]] * 2, np.float32),
    },
    "vae_encoder": {"images": np.clip(random(1, 3, 64, 96) / 3, -1, 1)},
    "vae_decoder": {"latents": random(2, 4, 8, 12)},
}
SHAPES = {
    "text_encoder": {"hidden_states": (1, 77, 32)},
    "text_encoder_2": {"hidden_states": (1, 77, 48), "text_embeds": (1, 48)},
    "unet": {"prediction": (2, 4, 8, 12)},
    "vae_encoder": {"moments": (1, 8, 8, 12)},
    "vae_decoder": {"images": (2, 3, 64, 96)},
}
COMPONENTS = list(FEEDS)


def run_on(bundle: Bundle, component: str, device: str, feed: Feed) -> dict[str, np.ndarray]:
    with open_session(bundle, component, device) as session:
        return session.run(feed)
