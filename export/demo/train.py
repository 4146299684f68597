"""`make demo-model`: train the embedded default model from nothing, on this machine's CPU.

Stopped at any moment it goes on where it was; with --minutes it stops by itself. Weights, log and
sample grids are in build/demo-model.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .architecture import DemoModel, new_model, read_model
from .autoencoder import AutoencoderLoss, as_pictures, as_values, psnr, whiten
from .checkpoint import Checkpoint
from .denoiser import DenoiserLoss
from .latents import latent_scenes
from .loop import Phase, train
from .photos import photos, scenic, square
from .recipe import Recipe, Stage, continuation, recipe, rehearsal
from .samples import grid, side_by_side
from .saving import rounded, save
from .scenes import scene
from .text import TextLoss, Tokens, sow, sow_new

_WHITENING = "whitening"


def main() -> None:
    """Train until all is done or time is up; exit code 3 if there is more to do."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("build/demo-model"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="stop after so long, to go on another time")
    parser.add_argument("--start", type=Path, help="a trained diffusers folder, whose UNet goes on")
    parser.add_argument("--rehearse", action="store_true", help="a few updates of each phase")
    asked = parser.parse_args()
    until = time.monotonic() + 60 * asked.minutes if asked.minutes else float("inf")
    usual = continuation if asked.start else recipe
    chosen = (rehearsal if asked.rehearse else usual)(asked.seed)
    asked.folder.mkdir(parents=True, exist_ok=True)
    training = Training(chosen, asked.folder, until, asked.start)
    if not training.run():
        print(f"not finished; the same command goes on with {asked.folder}", flush=True)
        sys.exit(3)
    save(training.model, asked.folder / "lightfill-demo")


class Training:
    """A recipe's phases on one model, in a folder that remembers them."""

    def __init__(
        self, chosen: Recipe, folder: Path, until: float, start: Path | None = None
    ) -> None:
        self._started = start is not None
        self.model: DemoModel = read_model(start) if start else new_model(chosen.seed)
        self._recipe, self._folder, self._until = chosen, folder, until
        self._checkpoint = Checkpoint(folder / "checkpoint.pt")
        self._photos = photos("training")
        self._tokens = Tokens()
        if start:
            torch.manual_seed(chosen.seed)
            self.model.vae.requires_grad_(False)
        (sow_new if start else sow)(self.model, self._tokens.meaningful())

    def run(self) -> bool:
        """All phases; False if time was up or a signal came."""
        done = self._started or (self._autoencoder() and self._text())
        return done and all(self._denoiser(stage) for stage in self._recipe.stages)

    def _train(self, phase: Phase) -> bool:
        return train(phase, self._checkpoint, self._folder, until=self._until)

    def _autoencoder(self) -> bool:
        vae, chosen = self.model.vae, self._recipe
        held_out = [square(photo, 256) for photo in photos("held_out").values()]
        loss = AutoencoderLoss(
            vae, list(self._photos.values()), edge=chosen.vae_edge, batch=chosen.vae_batch,
            seed=chosen.seed,
        )  # fmt: skip
        phase = Phase(
            "autoencoder", chosen.vae_updates, 4e-4, {"vae": vae}, loss,
            lambda: _restored(self.model, held_out),
        )  # fmt: skip
        if not self._train(phase):
            return False
        if not self._checkpoint.is_done(_WHITENING):
            rounded(vae)
            whiten(vae, self._calibration())
            rounded(vae)
            print("PSNR of held-out photos", [round(psnr(vae, each), 2) for each in held_out])
            self._checkpoint.finish(_WHITENING, {"vae": vae.state_dict()})
        vae.load_state_dict(self._checkpoint.weights("vae") or {})
        vae.requires_grad_(False)
        return True

    def _calibration(self) -> list[np.ndarray]:
        """Scenes whose latents become white."""
        draws = [np.random.Generator(np.random.PCG64([self._recipe.seed, 5, i])) for i in range(64)]
        return [scene(128, draw, scenic(self._photos)).picture for draw in draws]

    def _text(self) -> bool:
        model, chosen = self.model, self._recipe
        loss = TextLoss(model, self._tokens, batch=chosen.text_batch, seed=chosen.seed)
        parts = {"text_encoder": model.text_encoder, "text_encoder_2": model.text_encoder_2,
                 "readers": loss.readers}  # fmt: skip
        return self._train(Phase("text", chosen.text_updates, 2e-3, parts, loss, _nothing))

    def _denoiser(self, stage: Stage) -> bool:
        model = self.model
        scenes = latent_scenes(
            model.vae, scenic(self._photos), self._folder / f"latents-{stage.edge}.safetensors",
            edge=stage.edge, count=stage.scenes, seed=self._recipe.seed,
        )  # fmt: skip
        loss = DenoiserLoss(
            model, scenes, count=stage.count, paired=stage.paired, seed=self._recipe.seed,
        )  # fmt: skip
        model.unet.to(memory_format=torch.channels_last)  # an eighth faster
        parts = {"unet": model.unet, "text_encoder": model.text_encoder,
                 "text_encoder_2": model.text_encoder_2}  # fmt: skip
        phase = Phase(
            stage.name, stage.updates, stage.learning_rate, parts, loss,
            lambda: grid(model, stage.edge), _inner(model.unet),
        )  # fmt: skip
        return self._train(phase)


def _inner(unet: nn.Module) -> tuple[Tensor, ...]:
    """The matrices between a UNet's first and last layer."""
    return tuple(
        weight
        for name, weight in unet.named_parameters()
        if weight.dim() > 1 and not name.startswith(("conv_in", "conv_out"))
    )


def _nothing() -> Image.Image:
    """The text encoders alone paint nothing."""
    return Image.new("RGB", (8, 8))


def _restored(model: DemoModel, pictures: list[np.ndarray]) -> Image.Image:
    """Pictures above, and below what the VAE makes of them."""
    with torch.no_grad():
        latents = model.vae.encode(as_values(pictures)).latent_dist.mode()
        restored = as_pictures(model.vae.decode(latents).sample)
    return side_by_side([pictures, list(restored)])


if __name__ == "__main__":
    main()
