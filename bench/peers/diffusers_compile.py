"""Peer: diffusers with UNet and VAE compiled by torch.compile; compiling counts as loading."""

from typing import Any

import torch
from diffusers_eager import PACKAGES, opened, painting
from peer_side import Paint, serve


def load(work: dict[str, Any]) -> Paint:
    """As diffusers' guide to fast inference does it: channels last, whole graphs."""
    pipeline = opened(work)
    mode = "max-autotune" if work["device"] == "cuda" else None  # nothing to tune on a CPU
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.unet = torch.compile(pipeline.unet, mode=mode, fullgraph=True)
    pipeline.vae.encode = torch.compile(pipeline.vae.encode, mode=mode)
    pipeline.vae.decode = torch.compile(pipeline.vae.decode, mode=mode)
    return painting(pipeline, work["workload"])


if __name__ == "__main__":
    serve(load, PACKAGES)
