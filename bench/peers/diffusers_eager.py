"""Peer: diffusers' SDXL inpainting pipeline in PyTorch, eager, as its documentation shows it."""

from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline
from peer_side import Paint, Unavailable, serve
from PIL import Image

PACKAGES = ("diffusers", "transformers", "torch")


def load(work: dict[str, Any]) -> Paint:
    """The pipeline in the asked dtype, on the GPU if the device asked for is one."""
    pipeline = opened(work)
    return painting(pipeline, work["workload"])


def opened(work: dict[str, Any]) -> Any:
    """diffusers' pipeline with Lightning's scheduler settings."""
    if work["device"] == "cuda" and not torch.cuda.is_available():
        raise Unavailable("PyTorch sees no NVIDIA GPU")
    if work["device"] == "cpu" and work["dtype"] == "bfloat16" and not _has_fast_bfloat16():
        raise Unavailable("PyTorch has no fast bfloat16 on this processor")
    if work["threads"]:
        torch.set_num_threads(work["threads"])
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(
        work["checkpoint"], dtype=getattr(torch, work["dtype"])
    ).to(work["device"])
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _has_fast_bfloat16() -> bool:
    """Whether oneDNN's matrix products take bfloat16; PyTorch's own loops do without it."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def painting(pipeline: Any, workload: dict[str, Any]) -> Paint:
    """One request of the workload's size, steps and strength, without guidance."""
    width, height = workload["size"]

    def paint(photo: Image.Image, mask: Image.Image, seed: int) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(seed + i) for i in range(workload["batch"])]
        with torch.inference_mode():
            result = pipeline(
                workload["prompt"], image=photo, mask_image=mask, width=width, height=height,
                num_inference_steps=workload["steps"], strength=workload["strength"],
                guidance_scale=0.0, generator=generators, num_images_per_prompt=workload["batch"],
            )  # fmt: skip
        return list(result.images)

    return paint


if __name__ == "__main__":
    serve(load, PACKAGES)
