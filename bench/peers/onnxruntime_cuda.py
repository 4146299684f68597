"""Peer: ONNX Runtime's CUDA provider, driven by optimum-onnx. Not yet run on a GPU."""

from typing import Any

import onnxruntime
import optimum_onnx
from peer_side import Paint, Unavailable, serve

PACKAGES = ("onnxruntime-gpu", *optimum_onnx.PACKAGES)
PROVIDER = "CUDAExecutionProvider"


def load(work: dict[str, Any]) -> Paint:
    """As `optimum_onnx`, on the GPU; never on the CPU in its place."""
    if PROVIDER not in onnxruntime.get_available_providers():
        raise Unavailable(f"this ONNX Runtime has no {PROVIDER}")
    return optimum_onnx.load({**work, "provider": PROVIDER})


if __name__ == "__main__":
    serve(load, PACKAGES)
