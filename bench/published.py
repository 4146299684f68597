"""Published measurements of SDXL-class models on GPUs that say what one stage took.

Each is a time in milliseconds for a known piece of work, from a source that is named; what share of
the GPU's limit it reached follows from SDXL's counted operations. None was measured by us.
"""

from dataclasses import dataclass

from ..engine.errors import InvalidInput
from .datasheets import SHEETS


@dataclass(frozen=True, kw_only=True)
class Mark:
    """stage: "unet" (one call, one picture) or "vae_decode" (one picture), 1024x1024 on `gpu`, a
    data sheet's key. milliseconds: of it. whole: whether other work is in it, too, so that the
    share it gives is too small.
    """

    stage: str
    gpu: str
    milliseconds: float
    whole: bool
    source: str


_CARD = (
    "NVIDIA's model card stabilityai/stable-diffusion-xl-1.0-tensorrt (TensorRT 9.2, fp16, static)"
)
MARKS = (
    Mark(
        stage="unet", gpu="h100", milliseconds=102.80 / 4, whole=False,
        source=f"{_CARD}: SDXL-LCM, 4 steps without guidance",
    ),
    Mark(
        stage="unet", gpu="a100", milliseconds=192.02 / 4, whole=False,
        source=f"{_CARD}: SDXL-LCM, 4 steps without guidance",
    ),
    Mark(
        stage="unet", gpu="a100", milliseconds=(423 - 249) / 4, whole=False,
        source="microsoft/onnxruntime PR 18526 (ONNX Runtime, TensorRT provider): LCM-SDXL, "
        "8 steps less 4 steps",
    ),
    Mark(
        stage="vae_decode", gpu="a100", milliseconds=249 - (423 - 249), whole=True,
        source="microsoft/onnxruntime PR 18526: what is left of a request with an fp16 VAE when "
        "4 UNet steps are taken off, text encoders and host included",
    ),
    Mark(
        stage="unet", gpu="4090", milliseconds=1560 / 40, whole=True,
        source="OneDiff's SDXL benchmark (2024-07-31): 20 steps with guidance, which are 40 UNet "
        "runs, in 1.56 s with everything else",
    ),
)  # fmt: skip
"""What is missing: no source times the text encoders' floor, or the VAE encoder in fp16."""


def known_gpu(key: str) -> str:
    """The key of a data sheet for what a user typed; InvalidInput lists those there are."""
    plain = key.lower().replace(" ", "-").removeprefix("rtx-").removeprefix("rtx")
    keys = [sheet.key for sheet in SHEETS]
    if plain not in keys:
        raise InvalidInput("predict", f"no data sheet of {key!r} is here; choose {', '.join(keys)}")
    return plain
