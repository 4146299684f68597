"""What the caller of an export asks for, checked before anything is fetched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ..engine.errors import ExportError
from ..engine.manifest import Arithmetic
from ..scheduler import Prediction
from .lora import Lora

SDXL_BASE = "stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b"
LIGHTNING = "ByteDance/SDXL-Lightning@c9a24f48e1c025556787b0c58dd67a091ece2e44"
VAE_FP16_FIX = "madebyollin/sdxl-vae-fp16-fix@207b116dae70ace3637169f1ddd2434b91b3a8cd"
"""The defaults, each pinned to one commit (read from public projects that pin the same)."""

Synthetic = Literal["sdxl", "tiny"]
MAX_STEPS = 1000
_ARITHMETICS: tuple[Arithmetic, ...] = get_args(Arithmetic)


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """Which checkpoints become which bundle.

    out: the bundle's directory; an existing bundle gains the step counts it lacks.
    steps: step counts to serve. base: hub id (`owner/name[@revision]`), diffusers folder or single
    safetensors file; None is SDXL base 1.0 with SDXL-Lightning's UNets and the fp16-safe VAE.
    unets: step count -> source, key None for all counts not named; empty: Lightning for the default
    base, else the base's own. predictions: step count -> what its UNet predicts, where its files do
    not say. vae: source; None as for `unets`. config: diffusers folder with the configurations of
    single files; None is SDXL's. revision: of the base on the hub.
    weights: stored precision. arithmetics: graphs to write (float16 needs float16 weights).
    loras: merged into UNets and text encoders, in order. synthetic: no checkpoint at all.
    natural_size: edge in pixels the model was trained for; None is 1024, 64 for "tiny".
    """

    out: Path
    steps: Sequence[int] = (1, 2, 4, 8)
    base: str | Path | None = None
    unets: Mapping[int | None, str | Path] = field(default_factory=dict)
    predictions: Mapping[int | None, Prediction] = field(default_factory=dict)
    vae: str | Path | None = None
    config: Path | None = None
    revision: str | None = None
    local_files_only: bool = False
    loras: Sequence[Lora] = ()
    safety_checker: str | Path | None = None
    prompt_expander: str | Path | None = None
    synthetic: Synthetic | None = None
    weights: Arithmetic = "float16"
    arithmetics: Sequence[Arithmetic] = ("float32", "float16")
    verify: bool = True
    name: str | None = None
    natural_size: int | None = None

    def __post_init__(self) -> None:
        """Raise ExportError for what cannot be meant; bring counts and graphs into one order."""
        self._check_options()
        self._check_sources()
        graphs = tuple(each for each in _ARITHMETICS if each in self.arithmetics)
        object.__setattr__(self, "steps", tuple(sorted(set(self.steps))))
        object.__setattr__(self, "arithmetics", graphs)

    def _check_options(self) -> None:
        known = " or ".join(_ARITHMETICS)
        if not self.arithmetics:
            raise ExportError("no arithmetic is asked for; pass float32, float16 or both")
        unknown = {*self.arithmetics, self.weights} - {*_ARITHMETICS}
        if unknown:
            raise ExportError(f"{unknown.pop()!r} is no type of weights or graphs; pass {known}")
        if self.weights == "float32" and "float16" in self.arithmetics:
            raise ExportError("a float16 graph needs float16 weights; export float32 graphs only")
        counts = [count for count in self.steps if _is_whole(count) and 1 <= count <= MAX_STEPS]
        if not self.steps or len(counts) < len(self.steps):
            raise ExportError(
                f"steps {list(self.steps)} are no step counts; pass one or more from 1 to "
                f"{MAX_STEPS}"
            )
        size = self.natural_size
        if size is not None and not (_is_whole(size) and 64 <= size <= 2048):
            raise ExportError(f"natural size {size} cannot be; pass 64..2048 pixels")
        foreign = {count for count in {*self.unets, *self.predictions} if count is not None}
        if foreign - set(self.steps):
            raise ExportError(
                f"a UNet or prediction is given for {sorted(foreign - set(self.steps))} steps, "
                f"which --steps {','.join(map(str, self.steps))} does not list; add them there"
            )

    def _check_sources(self) -> None:
        if self.synthetic not in {None, *get_args(Synthetic)}:
            raise ExportError(
                f"{self.synthetic!r} is no synthetic model; pass {' or '.join(get_args(Synthetic))}"
            )
        if self.synthetic is not None and (
            self.base is not None or self.vae or self.unets or self.config
        ):
            raise ExportError(
                "synthetic weights replace every checkpoint; leave out base, unet, vae and config, "
                "or --synthetic"
            )
        if self.revision is not None and (self.base is None or "@" in str(self.base)):
            raise ExportError(
                f"revision {self.revision!r} is of a --base that names none itself; pass "
                "--base owner/name"
            )

    @property
    def bundle_name(self) -> str:
        """What the manifest calls the bundle."""
        return self.name or self.out.name

    @property
    def follows_defaults(self) -> bool:
        """Whether the checkpoint is the default one, whose UNets and VAE live elsewhere."""
        default = SDXL_BASE.partition("@")[0]
        is_default = self.base is None or str(self.base).partition("@")[0] == default
        return self.synthetic is None and is_default
