"""What a whole checkpoint offers: configurations, tokenizers, noise process, weights, licences.

Three kinds look the same from here: a diffusers folder (local or on the hub), a single file, and
the architecture alone with synthetic weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from ..engine.components import LATENT_CHANNELS, PIXELS_PER_LATENT
from ..engine.errors import ExportError
from ..engine.manifest import Source
from .repositories import LocalFile, LocalFolder, Repository, weight_files
from .single_file import canonical
from .tensors import FileWeights, SyntheticWeights, Weights
from .tokenizer_files import TokenizerFile, clip_tokenizers, embedded_tokenizers

SDXL = LocalFolder(Path(__file__).parent / "sdxl")
"""SDXL base 1.0's configurations (Podell et al. 2023; its config.json files), without weights."""

Kind = Literal["unet", "vae", "text_encoder", "text_encoder_2"]
"""What a set of weights is of; both halves of the VAE share one."""

LICENCE_NAMES = ("LICENSE", "LICENCE", "NOTICE", "PROVENANCE", "README")


class Base(Protocol):
    """A checkpoint of a whole pipeline."""

    @property
    def source(self) -> Source: ...

    @property
    def files(self) -> Repository: ...

    def config(self, folder: str) -> dict[str, Any]: ...

    def weights(self, role: str, shapes: Mapping[str, tuple[int, ...]]) -> Weights: ...

    def tokenizers(self) -> dict[str, TokenizerFile]: ...


@dataclass(frozen=True)
class DiffusersBase:
    """A `StableDiffusionXLPipeline` as diffusers saves it, checked to be one SDXL-shaped model."""

    files: Repository
    prefer_half: bool = True

    def __post_init__(self) -> None:
        """Raise ExportError unless it is a folder of that layout."""
        present = self.files.files()
        # not the VAE's: a cache has none where another repository's was taken
        for name in ("scheduler/scheduler_config.json", "unet/config.json"):
            if name not in present:
                raise ExportError(
                    f"{self.files.name} is not a diffusers SDXL folder: {name} is missing; pass "
                    "the folder that holds model_index.json"
                )

    @property
    def source(self) -> Source:
        return Source(checkpoint=self.files.name, revision=self.files.revision)

    def config(self, folder: str) -> dict[str, Any]:
        return read_config(self.files, folder)

    def weights(self, role: str, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
        del shapes  # the files have their own, which the caller checks
        return folder_weights(self.files, kind_of(role), role, self.prefer_half)

    def tokenizers(self) -> dict[str, TokenizerFile]:
        return clip_tokenizers(
            self.files,
            {
                role: self.config(role).get("vocab_size")
                for role in ("text_encoder", "text_encoder_2")
            },
        )


@dataclass(frozen=True)
class SingleFileBase:
    """One safetensors file with every part of SDXL, in diffusers' or the original key layout."""

    file: Path
    configs: Repository = SDXL
    files: Repository = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", LocalFile(self.file))

    @property
    def source(self) -> Source:
        return Source(checkpoint=self.file.name)

    def config(self, folder: str) -> dict[str, Any]:
        return read_config(self.configs, folder)

    def weights(self, role: str, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
        del shapes
        kind = kind_of(role)
        return file_weights(self.file, kind, self.config(kind))

    def tokenizers(self) -> dict[str, TokenizerFile]:
        return embedded_tokenizers()


@dataclass(frozen=True)
class SyntheticBase:
    """An architecture with seeded random weights, for benchmarks and tests without a hub."""

    kind: str
    configs: Mapping[str, Mapping[str, Any]]
    files: Repository = SDXL

    @property
    def source(self) -> Source:
        return Source(checkpoint=f"synthetic {self.kind}")

    def config(self, folder: str) -> dict[str, Any]:
        return dict(self.configs[folder])

    def weights(self, role: str, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
        return SyntheticWeights(shapes, f"{self.kind}/{kind_of(role)}")

    def tokenizers(self) -> dict[str, TokenizerFile]:
        return embedded_tokenizers()


def kind_of(role: str) -> Kind:
    """Also the folder a diffusers checkpoint keeps the role in."""
    return cast(Kind, "vae" if role.startswith("vae") else role)


def folder_weights(files: Repository, folder: str, role: str, prefer_half: bool) -> Weights:
    """Weights in a folder of a repository; fetched now, read later."""
    config = read_config(files, folder)
    names = weight_files(files, folder, prefer_half=prefer_half)
    origin = f"{files.name}/{folder}".removesuffix("/")
    kind = kind_of(role)
    return FileWeights(
        [files.fetch(name) for name in names],
        origin,
        lambda tensors: canonical(tensors, kind, config, origin),
    )


def file_weights(file: Path, kind: Kind, config: Mapping[str, Any]) -> Weights:
    """Weights of one part in a single file of any layout; `kind` is unet, vae or a text encoder."""
    return FileWeights(
        [file], file.name, lambda tensors: canonical(tensors, kind, config, file.name)
    )


def read_config(files: Repository, folder: str) -> dict[str, Any]:
    """`config.json` (or `scheduler_config.json`) of a folder of a repository."""
    file = "scheduler_config.json" if folder == "scheduler" else "config.json"
    name = f"{folder}/{file}".removeprefix("/")
    path = files.fetch(name)
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read ({error}); copy the checkpoint again") from error
    if not isinstance(loaded, dict):
        raise ExportError(f"{path} is no configuration; copy the checkpoint again")
    return loaded


def setting(config: Mapping[str, Any], key: str, origin: str) -> Any:
    """A setting that must be there."""
    if key not in config:
        raise ExportError(f"{origin} has no {key!r}; pass an SDXL checkpoint")
    return config[key]


def check_unet_config(config: Mapping[str, Any], origin: str) -> None:
    """Raise ExportError unless it describes a 4-channel SDXL UNet."""
    embedding, channels = config.get("addition_embed_type"), config.get("in_channels")
    if embedding != "text_time" or channels != LATENT_CHANNELS:
        raise ExportError(
            f"{origin} is not a 4-channel SDXL UNet (addition_embed_type {embedding!r}, "
            f"in_channels {channels}); pass an SDXL checkpoint"
        )


def check_vae_config(config: Mapping[str, Any], origin: str) -> float:
    """The scaling factor of a VAE that halves three times, as SDXL's does; else ExportError."""
    factor = 2 ** (len(setting(config, "block_out_channels", origin)) - 1)
    if factor != PIXELS_PER_LATENT:
        raise ExportError(f"{origin} scales by {factor}, not 8; pass an SDXL checkpoint")
    return float(setting(config, "scaling_factor", origin))


def licence_files(files: Repository) -> list[str]:
    """Licence, notice and provenance texts in the root of a repository."""
    return sorted(
        name
        for name in files.files()
        if "/" not in name and name.upper().startswith(LICENCE_NAMES) and _is_text(name)
    )


def _is_text(name: str) -> bool:
    return Path(name).suffix.lower() in {"", ".md", ".txt"}
