"""One request's options, checked once and resolved; what comes after trusts them."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .canvas import Fit
from .checks import flag, real_number, whole_number
from .composite import MAX_FEATHER
from .denoise import Blend
from .errors import InvalidInput

IMAGE_SIZES: Mapping[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
"""fal's presets: (width, height) in pixels."""

SOURCE_SIZE = "source"
MIN_SIDE, MAX_SIDE = 64, 2048
MAX_IMAGES = 8
MIN_STRENGTH = 0.01
MAX_CROP_PADDING = 4.0
MAX_PROMPT = 100_000
"""Characters. Only 77 tokens are used, but all are tokenized, at 200 bytes each."""
_SEEDS = 2**32  # PyTorch's CPU generator uses 32 bits of a seed

ImageSize = str | tuple[int, int] | Mapping[str, int]
Choice = TypeVar("Choice", Fit, Blend)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Validated options of one call; see `Inpainter.__call__` for their meaning."""

    prompt: str
    image_size: tuple[int, int] | None
    """(width, height), or None for the photo's own."""
    steps: int
    strength: float
    seeds: tuple[int, ...]
    fit: Fit
    crop_to_mask: float | None
    feather: int
    blend: Blend
    composite: bool

    @property
    def seed(self) -> int:
        """The first image's seed."""
        return self.seeds[0]


def validated(
    *,
    prompt: Any,
    image_size: Any,
    steps: Any,
    strength: Any,
    seed: Any,
    num_images: Any,
    fit: Any,
    crop_to_mask: Any,
    feather: Any,
    blend: Any,
    composite: Any,
) -> Request:
    """Check every option; raises InvalidInput that names the field and what it may be."""
    if not isinstance(prompt, str):
        raise InvalidInput("prompt", f"must be text, got {type(prompt).__name__}")
    if len(prompt) > MAX_PROMPT:
        reason = f"has {len(prompt)} characters, {MAX_PROMPT} may be"
        raise InvalidInput("prompt", f"{reason}; shorten it, only 77 tokens are used")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise InvalidInput("prompt", "holds half a surrogate pair; pass whole Unicode characters")
    count = _whole("num_images", num_images, 1, MAX_IMAGES)
    first = secrets.randbelow(_SEEDS) if seed is None else _whole("seed", seed, 0, 2**64 - 1)
    padding = crop_to_mask
    if padding is not None:
        padding = real_number("crop_to_mask", padding, 0.0, MAX_CROP_PADDING)
    return Request(
        prompt=prompt,
        image_size=resolve_image_size(image_size),
        steps=_whole("steps", steps, 1, 1000),
        strength=real_number("strength", strength, MIN_STRENGTH, 1.0),
        seeds=tuple((first + i) % 2**64 for i in range(count)),
        fit=_choice("fit", fit, Fit),
        crop_to_mask=padding,
        feather=_whole("feather", feather, 0, MAX_FEATHER),
        blend=_choice("blend", blend, Blend),
        composite=flag("composite", composite),
    )


def resolve_image_size(image_size: Any) -> tuple[int, int] | None:
    """(width, height) of a preset, "WIDTHxHEIGHT", pair or mapping; None for "source"."""
    if isinstance(image_size, str):
        if image_size == SOURCE_SIZE:
            return None
        if image_size in IMAGE_SIZES:
            return IMAGE_SIZES[image_size]
        width, cross, height = image_size.partition("x")
        if not cross or not width.isdecimal() or not height.isdecimal():
            raise InvalidInput(
                "image_size",
                f"{image_size!r} is neither WIDTHxHEIGHT nor one of "
                f"{', '.join(IMAGE_SIZES)}, {SOURCE_SIZE}",
            )
        return check_size(width, height)
    if isinstance(image_size, Mapping):
        unknown = set(image_size) - {"width", "height"}
        if unknown or len(image_size) != 2:
            raise InvalidInput("image_size", f"needs width and height, got {dict(image_size)}")
        return check_size(image_size["width"], image_size["height"])
    if isinstance(image_size, list | tuple) and len(image_size) == 2:
        return check_size(image_size[0], image_size[1])
    raise InvalidInput(
        "image_size", f"{image_size!r} is no size; use a preset, (width, height) or 'WIDTHxHEIGHT'"
    )


def fixed_image_size(text: str) -> tuple[int, int]:
    """(width, height) of a preset or "WIDTHxHEIGHT"; InvalidInput for "source", too."""
    size = resolve_image_size(text)
    if size is None:
        raise InvalidInput("image_size", f"{text!r} has no size of its own; write WIDTHxHEIGHT")
    return size


def check_size(width: Any, height: Any) -> tuple[int, int]:
    """Both sides as ints in 64..2048."""
    return (
        _whole("image_size", width, MIN_SIDE, MAX_SIDE),
        _whole("image_size", height, MIN_SIDE, MAX_SIDE),
    )


def _whole(field: str, value: Any, low: int, high: int) -> int:
    """As `whole_number`, digits in text included: fal's schema spells steps so."""
    # 20 digits hold any seed; 4300 are more than int() takes.
    if isinstance(value, str) and value.isdecimal() and len(value) <= 20:
        value = int(value)
    return whole_number(field, value, low, high)


def _choice(field: str, value: Any, kind: type[Choice]) -> Choice:
    try:
        return kind(value)
    except ValueError:
        raise InvalidInput(
            field, f"{value!r} is not one of {', '.join(member.value for member in kind)}"
        ) from None
