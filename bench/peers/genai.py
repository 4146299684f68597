"""Peer: OpenVINO GenAI's inpainting pipeline (C++), on the CPU, static shapes."""

from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from optimum_openvino import exported
from peer_side import Paint, serve
from PIL import Image

PACKAGES = ("openvino-genai", "openvino", "openvino-tokenizers")


def load(work: dict[str, Any]) -> Paint:
    """Compiled for the workload's size, in the precision asked for."""
    workload = work["workload"]
    width, height = workload["size"]
    pipeline = genai.InpaintingPipeline(str(exported(work)))
    pipeline.reshape(workload["batch"], height, width, 0.0)
    hint = {"INFERENCE_PRECISION_HINT": work["precision"]} if work.get("precision") else {}
    threads = {"INFERENCE_NUM_THREADS": work["threads"]} if work["threads"] else {}
    pipeline.compile("CPU", **hint, **threads)

    def paint(photo: Image.Image, mask: Image.Image, seed: int) -> list[Image.Image]:
        resized = (
            np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS).convert("RGB"))
            for picture in (photo, mask)
        )
        image, mask_image = (ov.Tensor(np.ascontiguousarray(array)[None]) for array in resized)
        result = pipeline.generate(
            workload["prompt"], image, mask_image, width=width, height=height,
            num_inference_steps=workload["steps"], strength=workload["strength"],
            guidance_scale=0.0, num_images_per_prompt=workload["batch"],
            generator=genai.TorchGenerator(seed),
        )  # fmt: skip
        return [Image.fromarray(array) for array in result.data]

    return paint


if __name__ == "__main__":
    serve(load, PACKAGES)
