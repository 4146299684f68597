"""The embedded model's parts before training: small, and a VAE that begins with colours."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightfill.export.demo.architecture import new_model
from lightfill.export.demo.autoencoder import psnr, whiten
from lightfill.export.demo.photos import photos, scenic


def test_the_untrained_vae_carries_colours_through() -> None:
    vae = new_model(0).vae
    for photo in photos("held_out").values():
        small = np.asarray(Image.fromarray(photo).resize((128, 128)))
        assert psnr(vae, small) > 13
    grey = np.full((64, 64, 3), 128, np.uint8)
    grey[:, 32:] = 60
    assert psnr(vae, grey) > 20


def test_whitening_leaves_pictures_alone_and_makes_latents_white() -> None:
    vae = new_model(1).vae
    pictures = [photo[:128, :128] for photo in photos("training").values()]
    with torch.no_grad():
        vae.encoder.conv_out.weight[3].normal_(std=0.1)  # untrained, the fourth latent is linear
    before = [psnr(vae, picture) for picture in pictures]
    whiten(vae, pictures)
    assert [psnr(vae, picture) for picture in pictures] == pytest.approx(before, abs=0.02)
    values = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(values).latent_dist.mode().transpose(0, 1).flatten(1)
    assert latents.mean(dim=1).numpy() == pytest.approx(0, abs=1e-3)
    assert torch.cov(latents).numpy() == pytest.approx(np.eye(4), abs=2e-3)


def test_seeds_decide_all_weights() -> None:
    one, same, other = new_model(3), new_model(3), new_model(4)
    for name in ("text_encoder", "text_encoder_2", "vae", "unet"):
        first, second, third = (
            list(getattr(each, name).parameters()) for each in (one, same, other)
        )
        assert all((a == b).all() for a, b in zip(first, second, strict=True))
        assert any((a != b).any() for a, b in zip(first, third, strict=True))


def test_it_fits_into_the_wheel() -> None:
    model = new_model(0)
    sizes = {name: sum(weight.numel() for weight in getattr(model, name).parameters())
             for name in ("vae", "unet")}  # fmt: skip
    assert 2 * sum(sizes.values()) < 13.5e6


def test_photos_of_the_two_sets_differ_and_are_small() -> None:
    training, held_out = photos("training"), photos("held_out")
    assert not training.keys() & held_out.keys()
    assert len(scenic(training)) >= 4
    for photo in (*training.values(), *held_out.values()):
        assert photo.ndim == 3
        assert max(photo.shape[:2]) <= 640
