"""Inputs of the demo bundle's components, as the pipeline would feed a float16 device."""

import numpy as np


def feed_of(component: str, side: int = 64, batch: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Random, repeatable inputs for square pictures of `side` pixels."""
    random = np.random.default_rng(seed)
    cells = side // 8

    def half(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float16)

    if component == "text_encoder":
        return {"inputs_embeds": half(1, 77, 32)}
    if component == "text_encoder_2":
        return {"inputs_embeds": half(1, 77, 48), "eos_position": np.array([5])}
    if component == "vae_encoder":
        return {"images": np.clip(half(1, 3, side, side) / 3, -1, 1).astype(np.float16)}
    if component == "vae_decoder":
        return {"latents": half(batch, 4, cells, cells)}
    return {
        "sample": half(batch, 4, cells, cells),
        "timestep": np.array([749], np.float32),
        "encoder_hidden_states": half(batch, 77, 80),
        "text_embeds": random.standard_normal((batch, 48)).astype(np.float32),
        "time_ids": np.array([[side, side, 0, 0, side, side]] * batch, np.float32),
    }
