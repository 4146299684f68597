"""Previews: a linear map that any VAE's own photo teaches, and the photo kept around the mask."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightfill.engine import pipeline, preview, vae
from lightfill.engine.canvas import Canvas, Window
from lightfill.engine.denoise import Progress
from lightfill.engine.pipeline import Inpainter
from lightfill.engine.preview import Previewer

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTO, MASK = EXAMPLES / "coffee.png", EXAMPLES / "coffee-mask.png"


def rms(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sqrt(np.mean((first.astype(float) - second.astype(float)) ** 2)))


def cell_means(pixels: np.ndarray) -> np.ndarray:
    height, width, channels = pixels.shape
    return pixels.reshape(height // 8, 8, width // 8, 8, channels).mean(axis=(1, 3))


def canvas(pixels: np.ndarray, mask: np.ndarray) -> Canvas:
    whole = Window(0, 0, pixels.shape[1], pixels.shape[0])
    return Canvas(pixels, mask, whole, whole)


@given(st.integers(0, 2**32 - 1))
def test_a_linear_vae_is_shown_exactly(seed: int) -> None:
    """Latents made of colours by any well-conditioned linear map and an offset are read back."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (8, 4, 3)).astype(np.float64)
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    encode = rotation[:, :3] * rng.uniform(1, 2, 3) / 50
    offset = rng.normal(size=4)

    def latents(cells: np.ndarray) -> np.ndarray:
        return (cells @ encode.T + offset).transpose(2, 0, 1)[None].astype(np.float32)

    photo = colours.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
    previewer = Previewer(canvas(photo, np.ones(photo.shape[:2], bool)), latents(colours))
    painted = rng.integers(0, 256, (8, 4, 3)).astype(np.float64)
    shown = np.asarray(previewer.picture(latents(painted)))
    assert np.abs(shown - painted).max() <= 2


def test_the_photo_is_kept_where_the_mask_is_black_and_mixed_in_part() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32], pixels[32:] = (200, 40, 40), (40, 40, 200)
    mask = np.zeros((64, 64), bool)
    mask[:, :28] = True  # three cells and a half
    clean = np.zeros((1, 4, 8, 8), np.float32)
    clean[0, 0, :4], clean[0, 0, 4:] = 1, -1
    shown = np.asarray(Previewer(canvas(pixels, mask), clean).picture(-clean)).astype(int)
    other, kept = cell_means(pixels)[::-1], cell_means(pixels)
    assert (shown[:, 4:] == kept[:, 4:]).all()
    assert np.abs(shown[:, :3] - other[:, :3]).max() <= 1
    assert np.abs(shown[:, 3] - (other[:, 3] + kept[:, 3]) / 2).max() <= 1


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_photo_gives_a_plain_preview_however_wild_the_latents(level: int) -> None:
    pixels = np.full((64, 64, 3), level, np.uint8)
    noise = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
    previewer = Previewer(canvas(pixels, np.ones((64, 64), bool)), noise[:1] * np.float32(1e-4))
    assert (np.asarray(previewer.picture(noise * 10)) == level).all()


def test_the_embedded_models_vae_is_shown_within_a_few_levels(demo_inpainter: Inpainter) -> None:
    """Of what its decoder gives, box-averaged; colours the photo hardly has included."""
    with Image.open(PHOTO) as opened:
        photo = np.asarray(opened.convert("RGB").resize((256, 256)))
    encode, decode = demo_inpainter._vae_encoder, demo_inpainter._vae_decoder
    factor = demo_inpainter.bundle.manifest.vae.scaling_factor
    posterior = vae.encode(encode, photo, factor)
    previewer = Previewer(canvas(photo, np.ones(photo.shape[:2], bool)), posterior.mean)
    errors = []
    for pixels in (photo, photo[::-1, ::-1], photo[..., ::-1]):
        latents = vae.encode(encode, np.ascontiguousarray(pixels), factor).mean
        (decoded,) = vae.decode(decode, latents, factor)
        error = rms(np.asarray(previewer.picture(latents)), cell_means(decoded))
        errors.append(error)
    assert max(errors[:2]) < 6
    assert errors[2] < 15  # blue for red: colours this photo does not have


def test_each_steps_preview_comes_nearer_to_the_finished_picture(
    demo_inpainter: Inpainter,
) -> None:
    seen: list[Image.Image] = []
    windows: list[Window] = []

    def on_step(progress: Progress) -> None:
        seen.append(progress.preview())
        windows.append(progress.window)

    result = demo_inpainter(
        PHOTO, MASK, "a green ball", image_size=(384, 256), strength=1, steps=4, seed=7,
        fit="stretch", on_step=on_step,
    )  # fmt: skip
    assert [picture.size for picture in seen] == [(48, 32)] * 4
    assert windows == [Window(0, 0, 600, 400)] * 4
    finished = cell_means(np.asarray(result.image))
    errors = [rms(np.asarray(picture), finished) for picture in seen]
    assert errors[-1] < 3
    assert errors[-1] <= min(errors)
    unpainted = cell_means(result.mask[..., None])[..., 0] == 0
    for picture in seen:
        assert np.abs(np.asarray(picture) - finished)[unpainted].max() <= 0.5


def test_sizes_that_are_no_multiples_and_windows_of_a_crop(demo_inpainter: Inpainter) -> None:
    seen: list[Progress] = []
    demo_inpainter(
        PHOTO, MASK, "a ball", image_size=(100, 70), crop_to_mask=0.2, steps=1, seed=1,
        num_images=2, on_step=seen.append,
    )  # fmt: skip
    assert [progress.preview().size for progress in seen] == [(13, 9)] * 2
    window = seen[0].window
    assert 0 < window.left < window.right <= 600
    assert 0 < window.top < window.bottom <= 400


def test_nothing_is_computed_unless_a_preview_is_asked_for(
    demo_inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("no preview was asked for")

    monkeypatch.setattr(preview, "_means", refuse)
    monkeypatch.setattr(preview, "_channels_last", refuse)
    assert pipeline.Previewer is Previewer
    demo_inpainter(
        PHOTO, MASK, "a ball", image_size=(64, 64), fit="stretch", on_step=lambda _: True
    )
