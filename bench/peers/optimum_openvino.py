"""Peer: optimum-intel, Hugging Face's OpenVINO pipelines, on the CPU, for one picture size."""

from pathlib import Path
from typing import Any

from checkpoint_files import with_vocabulary_files
from diffusers import EulerDiscreteScheduler
from diffusers_eager import painting
from optimum.intel import OVStableDiffusionXLInpaintPipeline
from peer_side import Paint, serve

PACKAGES = ("optimum-intel", "openvino", "diffusers", "transformers", "torch")


def load(work: dict[str, Any]) -> Paint:
    """Exported once, kept; compiled for the workload's size, in the precision asked for."""
    workload = work["workload"]
    width, height = workload["size"]
    hint = {"INFERENCE_PRECISION_HINT": work["precision"]} if work.get("precision") else {}
    threads = {"INFERENCE_NUM_THREADS": work["threads"]} if work["threads"] else {}
    pipeline = OVStableDiffusionXLInpaintPipeline.from_pretrained(
        exported(work), compile=False, ov_config={**hint, **threads}
    )
    pipeline.reshape(-1, height, width, -1)  # a fixed batch would be doubled, for guidance
    pipeline.compile()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    pipeline.set_progress_bar_config(disable=True)
    return painting(pipeline, workload)


def exported(work: dict[str, Any]) -> Path:
    """The checkpoint as OpenVINO's own files, tokenizers included, weights not compressed."""
    kept = Path(work["cache"]) / "openvino"
    if not (kept / "model_index.json").exists():
        from optimum.exporters.openvino import main_export

        checkpoint = with_vocabulary_files(Path(work["checkpoint"]), kept.with_name("checkpoint"))
        main_export(
            str(checkpoint), kept, task="inpainting", library_name="diffusers",
            convert_tokenizer=True,
        )  # fmt: skip
    return kept


if __name__ == "__main__":
    serve(load, PACKAGES)
