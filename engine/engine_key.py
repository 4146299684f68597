"""What a TensorRT engine was built from and for: everything that invalidates it, in one digest.

An engine is the compiled form of one component at one size on one kind of GPU, by one version of
TensorRT. Change any of these and it must be built again, so all of them are in its key.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .components import CONTRACTS, PIXELS_PER_LATENT, symbol_of
from .errors import InvalidInput
from .manifest import Sha256

Flavour = Literal["tensorrt", "rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

SIZE_MULTIPLE = 32
"""Pixels: what `engine.canvas` pads pictures to (a test compares the two)."""

_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
_ONE_AT_A_TIME = {"text_encoder", "text_encoder_2", "vae_encoder", "safety_checker"}
"""Roles that the pipeline runs with batch 1, however many pictures are asked for."""


def _sorted_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


def this_platform() -> str:
    """System and processor, as plans are bound to them: "linux-x86_64"."""
    return f"{platform.system()}-{platform.machine()}".lower()


class EngineKey(BaseModel):
    """Everything that decides what is in an engine's plan; equal keys, equal `digest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    component: str
    """The bundle's name for it, e.g. "unet-4step"."""
    graph_sha256: Sha256
    """Of the float16 graph, from the bundle's manifest."""
    weights_sha256: Sha256
    """Of the graph's external data."""
    flavour: Flavour
    version: str
    """Exact, e.g. "1.7.1.116"."""
    platform: str = Field(default_factory=this_platform)
    targets: Annotated[tuple[str, ...], AfterValidator(_sorted_names), Field(min_length=1)]
    """rtx: compute capabilities, ("sm89",); tensorrt: ("sm90 NVIDIA H100 80GB HBM3",)."""
    sizes: dict[str, int]
    """Of every symbol of the contract's inputs; height and width in latent cells."""
    flags: Annotated[tuple[str, ...], AfterValidator(_sorted_names)] = ()
    """Names of builder and network flags."""
    optimization_level: int | None = None
    """None: TensorRT's default."""
    workspace_bytes: int | None = None
    """None: TensorRT's default, all memory of the device."""

    @property
    def digest(self) -> str:
        """SHA-256 of the key's canonical JSON."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def pixels(self) -> tuple[int, int] | None:
        """(width, height) in pixels, or None for a component that no picture's size changes."""
        return pixels_of(self.sizes)


def pixels_of(sizes: Mapping[str, int]) -> tuple[int, int] | None:
    """(width, height) in pixels of an engine's sizes, or None if they have neither."""
    if "width" not in sizes:
        return None
    return sizes["width"] * PIXELS_PER_LATENT, sizes["height"] * PIXELS_PER_LATENT


def sizes_for(role: str, width: int, height: int, batch: int = 1) -> dict[str, int]:
    """The sizes at which the pipeline runs a component of `role` for such pictures.

    width, height: in pixels; as the pipeline does, they are padded to multiples of 32. batch:
    pictures per UNet call, which some roles never see. Raises InvalidInput for a role that is not
    built because its sizes differ from call to call.
    """
    if not is_built(role):
        raise InvalidInput(
            "component", f"{role} is not built: its sizes vary with every call; run it on the CPU"
        )
    cells = {
        "batch": 1 if role in _ONE_AT_A_TIME else batch,
        "height": -(-height // SIZE_MULTIPLE) * SIZE_MULTIPLE // PIXELS_PER_LATENT,
        "width": -(-width // SIZE_MULTIPLE) * SIZE_MULTIPLE // PIXELS_PER_LATENT,
    }
    return {symbol: cells[symbol] for symbol in _symbols(role)}


def is_built(role: str) -> bool:
    """Whether components of `role` become engines: all but the prompt expander."""
    return set(_symbols(role)) <= {"batch", "height", "width"}


def input_shape(role: str, name: str, sizes: Mapping[str, int]) -> tuple[int | None, ...]:
    """Shape of an input at `sizes`; None where the model's own width decides."""
    return tuple(
        dimension
        if dimension is None or isinstance(dimension, int)
        else _resolved(dimension, sizes)
        for dimension in CONTRACTS[role].inputs[name].shape
    )


def installed_version(flavour: Flavour) -> str | None:
    """Exact version of the installed TensorRT of a flavour, not imported; None if absent."""
    for distribution in _DISTRIBUTIONS[flavour]:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def _resolved(dimension: str, sizes: Mapping[str, int]) -> int:
    factor, symbol = symbol_of(dimension)
    return factor * sizes[symbol]


def _symbols(role: str) -> list[str]:
    shapes = (tensor.shape for tensor in CONTRACTS[role].inputs.values())
    found = {symbol_of(each)[1] for shape in shapes for each in shape if isinstance(each, str)}
    return sorted(found)
