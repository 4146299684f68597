"""Pixels to latents and back: scaling, rounding, clamping, and the posterior."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightfill.engine import vae
from lightfill.engine.pipeline import Inpainter
from lightfill.engine.sessions import Session, TensorSpec

SCALE = 0.13025


class FakeVae(Session):
    """Answers with given moments or images and keeps what it was asked."""

    def __init__(self, input_name: str, output: str, answer: np.ndarray, dtype: type) -> None:
        spec = TensorSpec(np.dtype(dtype), ("batch", "channels", "height", "width"))
        super().__init__("fake", "null", {input_name: spec}, {output: spec})
        self._output, self._answer = output, answer
        self.asked: np.ndarray | None = None

    def _run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (self.asked,) = feed.values()
        return {self._output: self._answer}

    def close(self) -> None:
        pass


@given(pixels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_pixels_survive_the_way_to_images_and_back(pixels: np.ndarray) -> None:
    images = vae.pixels_to_images(pixels)
    assert images.shape == (1, 3, *pixels.shape[:2])
    assert images.dtype == np.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert (vae.images_to_pixels(images[0]) == pixels).all()


def test_every_level_survives_float16_too() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    images = vae.pixels_to_images(levels)[0]
    assert images[0, 0, 0] == -1
    assert images[0, 15, 15] == 1
    assert (vae.images_to_pixels(images.astype(np.float16)) == levels).all()


def test_values_are_rounded_to_nearest_and_clamped() -> None:
    values = np.array([-3, -1, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 253.6 / 127.5 - 1, 1, 7])
    image = np.broadcast_to(values, (3, 1, 7)).astype(np.float32)
    before = image.copy()
    pixels = vae.images_to_pixels(image)
    assert pixels[0, :, 0].tolist() == [0, 0, 0, 1, 254, 255, 255]
    assert (image == before).all(), "a session's output is not written to"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_encoding_scales_mean_and_standard_deviation(dtype: type) -> None:
    mean = np.linspace(-4, 4, 16, dtype=np.float32).reshape(1, 4, 2, 2)
    logvar = np.full((1, 4, 2, 2), -2, np.float32)
    moments = np.concatenate([mean, logvar], axis=1).astype(dtype)
    session = FakeVae("images", "moments", moments, dtype)
    pixels = np.full((16, 16, 3), 255, np.uint8)
    posterior = vae.encode(session, pixels, SCALE)
    assert session.asked is not None
    assert session.asked.dtype == dtype
    assert (session.asked == 1).all()
    assert posterior.mean.dtype == posterior.std.dtype == np.float32
    np.testing.assert_allclose(posterior.mean, mean * SCALE, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(posterior.std, np.exp(-1) * SCALE, rtol=1e-6)
    noise = np.ones_like(mean)
    assert (posterior.sample(noise) == posterior.mean + posterior.std).all()
    assert posterior.nbytes == 2 * 16 * 4


@pytest.mark.parametrize(("logvar", "clamped"), [(-500, -30), (500, 20)])
def test_log_variance_is_clamped_as_in_diffusers(logvar: float, clamped: float) -> None:
    moments = np.zeros((1, 8, 1, 1), np.float32)
    moments[:, 4:] = logvar
    session = FakeVae("images", "moments", moments, np.float32)
    posterior = vae.encode(session, np.zeros((8, 8, 3), np.uint8), 1.0)
    np.testing.assert_allclose(posterior.std, np.exp(clamped / 2), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_decoding_unscales_and_gives_one_picture_per_latent(dtype: type) -> None:
    images = np.stack([np.full((3, 16, 16), level, dtype) for level in (-1, 0, 1)])
    session = FakeVae("latents", "images", images, dtype)
    latents = np.full((3, 4, 2, 2), SCALE, np.float32)
    pictures = vae.decode(session, latents, SCALE)
    assert session.asked is not None
    assert session.asked.dtype == dtype
    np.testing.assert_allclose(session.asked, 1, rtol=1e-3)
    assert [picture.shape for picture in pictures] == [(16, 16, 3)] * 3
    assert [int(picture[0, 0, 0]) for picture in pictures] == [0, 128, 255]


def test_demo_vae_gives_back_a_recognisable_picture(demo_inpainter: Inpainter) -> None:
    """20 to 26 dB on photos is what the demo model's authors measured; a gradient is easier."""
    bundle = demo_inpainter.bundle
    ramp = np.linspace(40, 215, 128)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp, 128), axis=-1).astype(np.uint8)
    from lightfill.engine.sessions import open_session

    factor = bundle.manifest.vae.scaling_factor
    with open_session(bundle, "vae_encoder") as encoder, open_session(bundle, "vae_decoder") as dec:
        posterior = vae.encode(encoder, pixels, factor)
        (picture,) = vae.decode(dec, posterior.mean, factor)
    assert posterior.mean.shape == (1, 4, 16, 16)
    error = ((picture.astype(float) - pixels) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 24
