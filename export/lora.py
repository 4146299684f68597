"""LoRAs merged into a checkpoint's weights while these are streamed, one tensor at a time."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.errors import ExportError
from .lora_keys import LoraLayer, canonical_key, read_layers

_DRIVE = re.compile(r"[A-Za-z]:[\\/][^:]*")


@dataclass(frozen=True)
class Lora:
    """A LoRA to merge: a safetensors file and its strength (fal's `LoraWeight`: path, scale).

    Any finite scale is accepted: fal's form stops at 0 and 4, but negative scales, which subtract
    what the LoRA adds, are as well defined.
    """

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ExportError(
                f"{self.path} cannot be merged with scale {self.scale}; pass a finite number, 1 "
                "for the LoRA as it was trained"
            )

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """`PATH[:SCALE]`; a file whose whole name is `text` wins over reading a scale."""
        path, colon, scale = text.rpartition(":")
        if not colon or _DRIVE.fullmatch(text) or _exists(text):
            path, scale = text, "1"
        try:
            strength = float(scale)
        except ValueError as error:
            raise ExportError(
                f"{text!r} names no file, and {scale!r} is no scale; write PATH or PATH:SCALE"
            ) from error
        if not path:
            raise ExportError(f"{text!r} names no file; write PATH or PATH:SCALE")
        return cls(Path(path), strength)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # longer than names may be
        return False


class LoraDeltas:
    """What a set of LoRAs adds to every weight, by component role and canonical key.

    Roles are "unet", "text_encoder" and "text_encoder_2"; the UNet's keys are diffusers', those of
    the text encoders start with `text_model.` (or are `text_projection.weight`), and keys without
    that prefix mean the same. Only the low-rank matrices are held.

    Several LoRAs add up, each with its scale, as diffusers' `set_adapters` and `fuse_lora` do.
    """

    def __init__(
        self,
        changes: Mapping[str, Mapping[str, Sequence[tuple[Lora, LoraLayer]]]],
        fingerprint: str,
    ) -> None:
        self._changes = changes
        self.fingerprint = fingerprint
        """SHA-256 of what is merged, in order: files, scales, alphas; empty for no LoRA."""

    @classmethod
    def load(cls, loras: Sequence[Lora], unet_config: Mapping[str, Any]) -> "LoraDeltas":
        """Reads and checks every file; `unet_config` is the checkpoint's `unet/config.json`."""
        changes: dict[str, dict[str, list[tuple[Lora, LoraLayer]]]] = {}
        content = hashlib.sha256()
        for lora in loras:
            layers = read_layers(lora.path, unet_config)
            content.update(_file_digest(lora.path))
            content.update(f"scale {float(lora.scale)!r}\n".encode())
            for (role, key), layer in layers.items():
                changes.setdefault(role, {}).setdefault(key, []).append((lora, layer))
                content.update(f"{role} {key} {layer.strength!r}\n".encode())
        return cls(changes, content.hexdigest() if loras else "")

    def keys(self, role: str) -> frozenset[str]:
        """The canonical keys of the weights that change."""
        return frozenset(self._changes.get(role, ()))

    def applied(self, role: str) -> tuple[Lora, ...]:
        """The LoRAs that change anything of a component, in order."""
        changed = self._changes.get(role, {}).values()
        return tuple(dict.fromkeys(lora for layers in changed for lora, _ in layers))

    def merged(self, role: str, key: str, weight: Tensor) -> Tensor:
        """`weight` + sum of scale * alpha / rank * up @ down, float32.

        A weight that no LoRA changes is returned as it is, the same object.
        """
        changes = self._changes.get(role, {}).get(canonical_key(role, key), ())
        if not changes:
            return weight
        result = weight.detach().to(torch.float32)
        for lora, layer in changes:
            _check_shape(lora, layer, role, key, tuple(weight.shape))
            result = result + lora.scale * layer.delta()
        return result

    def check_targets(self, role: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuses LoRAs that change weights `shapes`, those of one component, lacks or differ."""
        known = {canonical_key(role, key): tuple(shape) for key, shape in shapes.items()}
        for key, changes in self._changes.get(role, {}).items():
            for lora, layer in changes:
                if key not in known:
                    raise ExportError(
                        f"{lora.path} changes {key} of {role} (as {layer.name}), which this "
                        "checkpoint does not have; pass a LoRA trained for SDXL"
                    )
                _check_shape(lora, layer, role, key, known[key])


def _check_shape(
    lora: Lora, layer: LoraLayer, role: str, key: str, wanted: tuple[int, ...]
) -> None:
    if layer.shape != wanted:
        raise ExportError(
            f"{lora.path} changes {key} of {role} (as {layer.name}) as if its shape were "
            f"{layer.shape}, but it is {wanted}; pass a LoRA trained for this checkpoint's "
            "architecture"
        )


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ExportError(f"{path} cannot be read ({error}); check the LoRA's path") from error
