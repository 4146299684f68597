"""Peer: optimum-onnx, Hugging Face's ONNX Runtime pipelines, on the CPU."""

from pathlib import Path
from typing import Any

import onnxruntime
import torch
from checkpoint_files import with_vocabulary_files
from diffusers import EulerDiscreteScheduler
from diffusers_eager import painting
from optimum.onnxruntime import ORTStableDiffusionXLInpaintPipeline
from peer_side import Paint, serve

PACKAGES = ("optimum", "optimum-onnx", "onnxruntime", "diffusers", "transformers", "torch")
PROVIDER = "CPUExecutionProvider"


def load(work: dict[str, Any]) -> Paint:
    """Exported once by optimum itself, kept, and run on the CPU."""
    return painting(opened(work, PROVIDER), work["workload"])


def opened(work: dict[str, Any], provider: str) -> Any:
    """optimum's pipeline with Lightning's scheduler settings."""
    kept = Path(work["cache"]) / "optimum-onnx"
    options = onnxruntime.SessionOptions()
    if work["threads"]:
        options.intra_op_num_threads = work["threads"]
        torch.set_num_threads(work["threads"])
    if not (kept / "model_index.json").exists():
        checkpoint = with_vocabulary_files(Path(work["checkpoint"]), kept.with_name("checkpoint"))
        ORTStableDiffusionXLInpaintPipeline.from_pretrained(
            str(checkpoint), export=True
        ).save_pretrained(kept)
    pipeline = ORTStableDiffusionXLInpaintPipeline.from_pretrained(
        kept, provider=provider, session_options=options
    )
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


if __name__ == "__main__":
    serve(load, PACKAGES)
