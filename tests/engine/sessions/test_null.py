"""The null device: right shapes for every component, zeros, and no weights loaded."""

import numpy as np
import pytest

from lightfill.engine.bundle import Bundle
from lightfill.engine.components import CONTRACTS
from lightfill.engine.errors import ContractViolation
from lightfill.engine.sessions import open_session

FEEDS = {
    "text_encoder": {"inputs_embeds": np.zeros((1, 77, 32), np.float32)},
    "text_encoder_2": {
        "inputs_embeds": np.zeros((1, 77, 48), np.float32),
        "eos_position": np.array([3]),
    },
    "unet": {
        "sample": np.zeros((2, 4, 12, 8), np.float32),
        "timestep": np.zeros(1, np.float32),
        "encoder_hidden_states": np.zeros((2, 77, 80), np.float32),
        "text_embeds": np.zeros((2, 48), np.float32),
        "time_ids": np.zeros((2, 6), np.float32),
    },
    "vae_encoder": {"images": np.zeros((1, 3, 96, 64), np.float32)},
    "vae_decoder": {"latents": np.zeros((3, 4, 12, 8), np.float32)},
}
SHAPES = {
    "text_encoder": {"hidden_states": (1, 77, 32)},
    "text_encoder_2": {"hidden_states": (1, 77, 48), "text_embeds": (1, 48)},
    "unet": {"prediction": (2, 4, 12, 8)},
    "vae_encoder": {"moments": (1, 8, 12, 8)},
    "vae_decoder": {"images": (3, 3, 96, 64)},
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


@pytest.mark.parametrize("component", FEEDS)
def test_outputs_are_zeros_of_the_contracts_shapes(bundle: Bundle, component: str) -> None:
    with open_session(bundle, component, "null") as session:
        results = session.run(FEEDS[component])
    assert {name: array.shape for name, array in results.items()} == SHAPES[component]
    assert all(array.dtype == np.float32 and not array.any() for array in results.values())
    assert session.device == "null"
    assert session.component == component


@pytest.mark.parametrize("component", FEEDS)
def test_tensor_names_are_the_contracts(bundle: Bundle, component: str) -> None:
    with open_session(bundle, component, "null") as session:
        assert list(session.inputs) == list(CONTRACTS[component].inputs)
        assert list(session.outputs) == list(CONTRACTS[component].outputs)


def test_outputs_follow_each_feeds_size(bundle: Bundle) -> None:
    with open_session(bundle, "vae_decoder", "null") as session:
        for height, width in [(4, 4), (16, 8), (4, 4)]:
            latents = np.zeros((1, 4, height, width), np.float32)
            assert session.run({"latents": latents})["images"].shape == (
                1,
                3,
                8 * height,
                8 * width,
            )


def test_constants_cannot_be_written_to_by_one_caller_for_all(bundle: Bundle) -> None:
    with open_session(bundle, "vae_decoder", "null") as session:
        images = session.run(FEEDS["vae_decoder"])["images"]
        with pytest.raises(ValueError, match="read-only"):
            images += 1


def test_feeds_are_checked_like_any_sessions(bundle: Bundle) -> None:
    with open_session(bundle, "vae_decoder", "null") as session:
        with pytest.raises(ContractViolation, match="takes inputs"):
            session.run({"images": np.zeros((1, 4, 4, 4), np.float32)})
        with pytest.raises(ContractViolation, match="has shape"):
            session.run({"latents": np.zeros((1, 5, 4, 4), np.float32)})
        with pytest.raises(ContractViolation, match="is float32, was given float16"):
            session.run({"latents": np.zeros((1, 4, 4, 4), np.float16)})
