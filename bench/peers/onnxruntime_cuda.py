"""Peer: ONNX Runtime's CUDA provider, driven by optimum-onnx. Not yet run on a GPU."""

from typing import Any

from diffusers_eager import painting
from optimum_onnx import PACKAGES, opened
from peer_side import Paint, Unavailable, serve

PROVIDER = "CUDAExecutionProvider"


def load(work: dict[str, Any]) -> Paint:
    """As `optimum_onnx`, on the GPU.

    Where that cannot be used, ONNX Runtime runs on the CPU with a warning: such a peer is none.
    """
    pipeline = opened(work, PROVIDER)
    for name in ("text_encoder", "text_encoder_2", "vae_encoder", "unet", "vae_decoder"):
        providers = getattr(pipeline, name).session.get_providers()
        if providers[0] != PROVIDER:
            raise Unavailable(f"ONNX Runtime put its {name} on {providers[0]}, not on a GPU")
    return painting(pipeline, work["workload"])


if __name__ == "__main__":
    serve(load, ("onnxruntime-gpu", *PACKAGES))
