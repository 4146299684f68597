"""`lightfill.json`: what a bundle says about itself, validated when it is read.

A file is an edge, so these are pydantic models, frozen once read. Paths are relative to the bundle,
with forward slashes, and may not leave it.
"""

import json
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..scheduler import Prediction

MANIFEST_NAME = "lightfill.json"
SCHEMA_VERSION = 1

Arithmetic = Literal["float32", "float16"]
TextRole = Literal["text_encoder", "text_encoder_2"]
Role = Literal[
    "text_encoder",
    "text_encoder_2",
    "unet",
    "vae_encoder",
    "vae_decoder",
    "safety_checker",
    "prompt_expander",
]


def _inside_bundle(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path:
        raise ValueError(f"{path!r} is not a relative path inside the bundle")
    return path


BundlePath = Annotated[str, AfterValidator(_inside_bundle)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Section):
    """Length in bytes and SHA-256 of one bundle file."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class Source(_Section):
    """Where weights came from: a hub id or a folder's name, and the commit, where there is one."""

    checkpoint: str
    revision: str | None = None


class AppliedLora(_Section):
    """A LoRA that was merged into a component's weights."""

    file: str
    sha256: Sha256
    scale: float


class Verification(_Section):
    """One graph compared with PyTorch at one size; `sizes` are in latent cells and tokens."""

    arithmetic: Arithmetic
    sizes: dict[str, int]
    max_abs_error: float
    psnr_db: float
    """Largest reference value over the error's root mean square, in decibels; 999 if equal."""
    passed: bool


class Component(_Section):
    """One exported model: its ONNX graphs by arithmetic, all sharing one file of weights.

    `float32` computes in float32 from weights stored as float16 (CPU runtimes); `float16` is
    strongly typed float16 (GPU runtimes). `weights` is the graphs' external data.
    """

    role: Role
    graphs: dict[Arithmetic, BundlePath] = Field(min_length=1)
    weights: BundlePath
    token_embedding: BundlePath | None = None
    """Text encoders only: .npy table (vocabulary, width), looked up outside the graph."""
    source: Source | None = None
    made_from: Sha256 | None = None
    """Of configuration, weights, LoRAs and stored precision: equal for equal components."""
    loras: list[AppliedLora] = []
    verification: list[Verification] = []
    """Empty if the export was told not to verify."""


class StepCount(_Section):
    """Which UNet serves one `num_inference_steps`, and what its output means."""

    component: str
    prediction: Prediction


class Tokenizer(_Section):
    """A `tokenizers` JSON file and the ids a text is framed with (CLIP: in a 77-token window)."""

    file: BundlePath
    special_tokens: list[str]
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int


class SchedulerConstants(_Section):
    """The training noise process, as diffusers names it; betas are scaled_linear."""

    num_train_timesteps: int = Field(gt=0)
    beta_start: float = Field(gt=0)
    beta_end: float = Field(gt=0)
    beta_schedule: Literal["scaled_linear"]
    timestep_spacing: Literal["trailing"]


class Vae(_Section):
    """Latents are multiplied by `scaling_factor` after encoding, divided before decoding."""

    scaling_factor: float = Field(gt=0)


class Licence(_Section):
    """A licence text shipped in the bundle and the parts it covers."""

    file: BundlePath
    covers: str


class Manifest(_Section):
    """The whole of `lightfill.json`."""

    schema_version: Literal[1]
    name: str
    natural_size: int = Field(ge=64, le=2048)
    """Square edge in pixels the model was trained for; other sizes run, with less quality."""
    source: Source
    made_with: dict[str, str]
    components: dict[str, Component]
    steps: dict[int, StepCount] = Field(min_length=1)
    tokenizers: dict[TextRole | Literal["prompt_expander"], Tokenizer]
    scheduler: SchedulerConstants
    vae: Vae
    licences: list[Licence]
    files: dict[BundlePath, FileEntry]

    @model_validator(mode="after")
    def _references_resolve(self) -> "Manifest":
        for role in ("text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder"):
            if role not in self.components or self.components[role].role != role:
                raise ValueError(f"component {role} is not listed")
        for encoder in ("text_encoder", "text_encoder_2"):
            if encoder not in self.tokenizers:
                raise ValueError(f"tokenizers has no entry for {encoder}")
        for steps, entry in self.steps.items():
            component = self.components.get(entry.component)
            if component is None or component.role != "unet":
                raise ValueError(f"steps {steps} name {entry.component!r}, which is no unet here")
        for path in self._named_files():
            if path not in self.files:
                raise ValueError(f"{path} is used but has no entry under files")
        return self

    def _named_files(self) -> set[str]:
        named = {licence.file for licence in self.licences}
        named |= {tokenizer.file for tokenizer in self.tokenizers.values()}
        for name, component in self.components.items():
            named |= {*component.graphs.values(), component.weights}
            if component.token_embedding:
                named.add(component.token_embedding)
            elif component.role.startswith("text_encoder"):
                raise ValueError(f"component {name} names no token_embedding")
        return named


def serialised(manifest: Manifest) -> bytes:
    """The content of `lightfill.json`."""
    content = manifest.model_dump(mode="json", exclude_defaults=True)
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
