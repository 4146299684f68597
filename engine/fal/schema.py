"""What the endpoint takes and gives: fal's schema to the letter, and our extensions beside it.

Names, defaults, limits and order are those of `fal-ai/fast-lightning-sdxl/inpainting`
(tests/engine/fal/inpainting-schema.json); a test compares the generated JSON schema with it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from ..canvas import Fit
from ..composite import MAX_FEATHER
from ..errors import RequestInvalid
from ..request import MAX_CROP_PADDING, MAX_IMAGES, MIN_STRENGTH
from .validation import error_body, fal_items, json_safe

__all__ = [
    "Embedding",
    "Image",
    "ImageSize",
    "InpaintingInput",
    "InpaintingOutput",
    "LightfillInput",
    "LoraWeight",
    "RequestInvalid",
    "error_body",
    "validated",
]

Preset = Literal[
    "square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"
]
_MAX_SIDE = 14142
_EXAMPLE = (
    "https://raw.githubusercontent.com/CompVis/latent-diffusion/main/data/inpainting_examples/"
    "overture-creations-5sI6fQgYIuo"
)


def _ordered(schema: dict[str, Any]) -> None:
    """As fal publishes a schema: property order stated, Python's docstring left out."""
    schema["x-fal-order-properties"] = list(schema["properties"])
    schema.pop("description", None)


def _undescribed(schema: dict[str, Any]) -> None:
    schema.pop("description", None)


def _without_default(schema: dict[str, Any]) -> None:
    """fal's optional fields without a default do not say `null` in the schema."""
    schema.pop("default")


def _as_steps(value: Any) -> Any:
    """ "4" and 4 are the same to callers: the type is a string enum, its default the integer 4."""
    return int(value) if isinstance(value, str) and value in {"1", "2", "4", "8"} else value


def _as_torch_seed(value: int | None) -> int | None:
    """The range torch.manual_seed takes; fal's schema states none."""
    if value is not None and not -(2**63) <= value < 2**64:
        raise ValueError("must be from -2**63 to 2**64-1; pass a smaller seed")
    return value


STEPS = (1, 2, 4, 8)
"""fal's step counts; a model may have fewer."""
Steps = Annotated[
    Literal[1, 2, 4, 8],
    BeforeValidator(_as_steps),
    WithJsonSchema({"type": "string", "enum": ["1", "2", "4", "8"]}),
]


# null is taken and not mentioned, as for all of fal's optional fields without a default.
Seed = Annotated[int | None, AfterValidator(_as_torch_seed), WithJsonSchema({"type": "integer"})]
CropPadding = Annotated[
    Annotated[float, Field(ge=0, le=MAX_CROP_PADDING)] | None,
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": MAX_CROP_PADDING}),
]


class ImageSize(BaseModel):
    """An explicit size in pixels; `{}` means 512x512, because both members have defaults."""

    model_config = ConfigDict(json_schema_extra=_ordered)

    width: int = Field(512, gt=0, le=_MAX_SIDE, description="Width of the result in pixels.")
    height: int = Field(512, gt=0, le=_MAX_SIDE, description="Height of the result in pixels.")


class Embedding(BaseModel):
    """A textual inversion: where its file is, and the prompt tokens bound to its rows."""

    model_config = ConfigDict(json_schema_extra=_ordered)

    path: str = Field(description="URL or path of the embedding file.")
    tokens: list[str] = Field(
        ["<s0>", "<s1>"],
        description="Prompt tokens bound to the rows of the embedding, in order.",
    )


class LoraWeight(BaseModel):
    """A LoRA. No part of fal's endpoint: see `LightfillInput.loras`."""

    model_config = ConfigDict(json_schema_extra=_undescribed)

    path: str = Field(
        description="URL or path of the LoRA file "
        "(in some categories also a Hugging Face model name)."
    )
    scale: float = Field(
        1, ge=0, le=1, description="Factor applied to the LoRA before it is merged."
    )
    force: bool = Field(False, description="Forces the weights to be used.")


class InpaintingInput(BaseModel):
    """The request exactly as fal documents it; unknown fields are ignored, as fal does."""

    model_config = ConfigDict(
        title="InpaintingLightningInput", json_schema_extra=_ordered, extra="ignore"
    )

    image_url: str = Field(
        description="Where the source image is read from: http(s) URL or data URI.",
        examples=[f"{_EXAMPLE}.png"],
    )
    mask_url: str = Field(
        description="Where the mask is read from: http(s) URL or data URI.",
        examples=[f"{_EXAMPLE}_mask.png"],
    )
    prompt: str = Field(
        description="Text that says what to paint; the more precise, the better.",
        examples=["a tiger sitting on a park bench"],
    )
    image_size: ImageSize | Preset = Field(
        "square_hd",
        description="Size of the result: a preset name or an explicit width and height.",
    )
    num_inference_steps: Steps = Field(
        4, description="Number of denoising steps; selects the distilled checkpoint."
    )
    strength: float = Field(
        0.95,
        ge=MIN_STRENGTH,
        le=1,
        description="How far the result may move away from the source image.",
    )
    seed: Seed = Field(
        None,
        description="Same seed, prompt and model version give the same image.",
        json_schema_extra=_without_default,
    )
    sync_mode: bool = Field(
        False,
        description="When true the images come back as data URIs and the output is not kept "
        "in the request history.",
    )
    num_images: int = Field(1, ge=1, le=MAX_IMAGES, description="How many images to make.")
    embeddings: list[Embedding] = Field([], description="Textual-inversion embeddings to load.")
    enable_safety_checker: bool = Field(True, description="Whether the results are screened.")
    safety_checker_version: Literal["v1", "v2"] = Field(
        "v1", description="v1 is the CompVis checker, v2 a ViT classifier."
    )
    expand_prompt: bool = Field(
        False, description="Whether the prompt is lengthened with extra wording."
    )
    format: Literal["jpeg", "png"] = Field("jpeg", description="File format of the results.")
    guidance_rescale: float = Field(
        0, ge=0, le=1, description="Rescale factor applied to classifier-free guidance."
    )
    request_id: str = Field(
        "", description="Caller's own tag for the request, usable to match the answer."
    )


class LightfillInput(InpaintingInput):
    """fal's request and what lightfill adds; every addition's default leaves fal's behaviour."""

    model_config = ConfigDict(title="LightfillInput")

    loras: list[LoraWeight] = Field(
        [],
        description="LoRAs the bundle must have merged, exactly these; others are refused.",
    )
    mask_crop_padding: CropPadding = Field(
        None,
        description="Paint only the mask's surroundings, grown by this fraction of its size; "
        "the result keeps the source image's size.",
        json_schema_extra=_without_default,
    )
    fit: Fit = Field(
        Fit.CROP, description="How a source image of another shape than image_size is fitted."
    )
    feather: int = Field(
        8, ge=0, le=MAX_FEATHER, description="Width of the soft edge inside the mask, in pixels."
    )
    preview: bool = Field(
        False,
        description="Whether the log entry of every step has labels: `preview`, a small JPEG as "
        "data URI, and `preview_window`, the part of the source image that it shows.",
    )


class Image(BaseModel):
    """One result file. Not `File`: this endpoint gives no file name and no file size."""

    model_config = ConfigDict(json_schema_extra=_ordered)

    url: str
    width: int
    height: int
    content_type: str = "image/jpeg"


class InpaintingOutput(BaseModel):
    """The answer: result files, seconds per stage, and what is needed to repeat it."""

    model_config = ConfigDict(title="Output", json_schema_extra=_ordered)

    images: list[Image] = Field(description="The result files.")
    timings: dict[str, float] = Field(description="Durations by stage.")
    seed: int = Field(description="The seed that was used, given or drawn.")
    has_nsfw_concepts: list[bool] = Field(description="One flag per image.")
    prompt: str = Field(description="The prompt that was used.")


def validated(arguments: Mapping[str, Any]) -> LightfillInput:
    """Check a request's arguments; raises RequestInvalid with every mistake in fal's list form."""
    if not isinstance(arguments, Mapping):
        message = "Input should be a valid dictionary"
        item = {"type": "dict_type", "loc": ["body"], "msg": message, "input": json_safe(arguments)}
        raise RequestInvalid([item])
    try:
        return LightfillInput.model_validate(dict(arguments))
    except ValidationError as error:
        raise RequestInvalid(fal_items(error.errors(include_url=False))) from None
