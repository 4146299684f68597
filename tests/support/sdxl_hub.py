"""The repositories that an export without options needs, on a fake hub, holding the tiny model.

Their names and commits are the defaults'; their files are named as on the real hub. Each of
Lightning's UNets is the tiny UNet with its step count added to `conv_out.bias`.
"""

import shutil
from pathlib import Path

import layouts
import torch
from fake_hub import FakeHub
from safetensors.torch import load_file, save
from torch import Tensor

from lightfill.export.request import LIGHTNING, SDXL_BASE, VAE_FP16_FIX

BASE, FAST, VAE = (source.partition("@")[0] for source in (SDXL_BASE, LIGHTNING, VAE_FP16_FIX))
COUNTED = "conv_out.bias"


def fill(hub: FakeHub, folder: Path, directory: Path) -> None:
    """Publish the checkpoint in `folder` under the default names; `directory` is for scratch."""
    half = directory / "fp16"
    layouts.half_beside_single(folder, half)
    vae = _files(half / "vae")
    hub.commit(
        {
            **_files(half),
            "LICENSE.md": b"licence of the base",
            "README.md": b"about the base",
            "sd_xl_base_1.0.safetensors": b"a whole checkpoint nobody needs",
            "unet/model.onnx": b"nobody needs",
        },
        name=BASE,
        sha=SDXL_BASE.partition("@")[2],
    )
    hub.commit(
        {
            "config.json": vae["config.json"],
            "diffusion_pytorch_model.safetensors": vae["diffusion_pytorch_model.fp16.safetensors"],
            "diffusion_pytorch_model.bin": b"nobody needs",
            "README.md": b"about the VAE",
        },
        name=VAE,
        sha=VAE_FP16_FIX.partition("@")[2],
    )
    unet = load_file(layouts.weights_file(folder, "unet"))
    hub.commit(
        {
            **{unet_name(count): lightning_unet(unet, count) for count in (1, 2, 4, 8)},
            "sdxl_lightning_4step_lora.safetensors": b"nobody needs",
            "sdxl_lightning_4step.safetensors": b"nobody needs",
            "LICENSE.md": b"licence of Lightning",
            "README.md": b"about Lightning",
        },
        name=FAST,
        sha=LIGHTNING.partition("@")[2],
    )
    shutil.rmtree(half)


def unet_name(count: int) -> str:
    return f"sdxl_lightning_{count}step_unet{'_x0' if count == 1 else ''}.safetensors"


def lightning_unet(unet: dict[str, Tensor], count: int) -> bytes:
    return save({**unet, COUNTED: (unet[COUNTED] + count).to(torch.float16)})


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
