"""Which UNet serves which step count: a distilled UNet is good for one count only.

A source is a hub id or folder with Lightning's files (one per step count), a diffusers folder, or a
single file; without one the base's own UNet serves every count.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.errors import ExportError
from ..engine.manifest import Source
from ..scheduler import Prediction
from .architecture import build
from .base import Base, check_unet_config, file_weights, folder_weights, read_config
from .repositories import LocalFile, Repository, open_repository
from .request import LIGHTNING, ExportRequest
from .tensors import SyntheticWeights, Weights

_LIGHTNING_FILE = "sdxl_lightning_{}step_unet.safetensors"
_LIGHTNING_ONE_STEP = "sdxl_lightning_1step_unet_x0.safetensors"
# not the thousands of steps that a file was trained for
_STEPS_IN_NAME = re.compile(r"(?<!\d)(\d\d?)[-_]?steps?(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Unet:
    """One UNet component. prediction: None where only the base's scheduler says it."""

    name: str
    steps: tuple[int, ...]
    config: Mapping[str, Any]
    weights: Weights
    source: Source
    prediction: Prediction | None = None


def resolve_unets(
    request: ExportRequest, base: Base, wanted: Sequence[int], licensed: list[Repository]
) -> list[Unet]:
    """The UNets of the `wanted` step counts; sources with licence texts are added to `licensed`."""
    default = LIGHTNING if request.follows_defaults else None
    found: list[Unet] = []
    for spec in dict.fromkeys(
        request.unets.get(count, request.unets.get(None)) for count in wanted
    ):
        counts = [
            count for count in wanted if request.unets.get(count, request.unets.get(None)) == spec
        ]
        if request.synthetic:
            found += [_synthetic(base, count) for count in counts]
        elif spec is None and default is None:
            found.append(_own(base, counts))
        else:
            files = open_repository(spec or LIGHTNING, local_files_only=request.local_files_only)
            licensed.append(files)
            found += _from_files(files, base, counts, prefer_half=request.weights == "float16")
    for unet in found:
        check_unet_config(unet.config, f"{unet.source.checkpoint} unet")
    return found


def _name(counts: Sequence[int]) -> str:
    return f"unet-{'-'.join(map(str, sorted(counts)))}step"


def _synthetic(base: Base, count: int) -> Unet:
    config = base.config("unet")
    shapes = build("unet", config, base.source.checkpoint).shapes
    weights = SyntheticWeights(shapes, f"{base.source.checkpoint}/unet/{count}")
    prediction = Prediction.SAMPLE if count == 1 else Prediction.EPSILON
    return Unet(_name([count]), (count,), config, weights, base.source, prediction)


def _own(base: Base, counts: Sequence[int]) -> Unet:
    config = base.config("unet")
    return Unet("unet", tuple(counts), config, base.weights("unet", {}), base.source)


def _from_files(
    files: Repository, base: Base, counts: Sequence[int], *, prefer_half: bool
) -> list[Unet]:
    source = Source(checkpoint=files.name, revision=files.revision)
    present = files.files()
    if isinstance(files, LocalFile):
        (name,) = present
        _check_steps_in_name(name, counts)
        config = base.config("unet")
        weights = file_weights(files.fetch(name), "unet", config)
        return [Unet(_name(counts), tuple(counts), config, weights, source, _predicts(name))]
    for folder in ("", "unet"):
        if f"{folder}/config.json".removeprefix("/") in present:
            config = read_config(files, folder)
            weights = folder_weights(files, folder, "unet", prefer_half)
            return [Unet(_name(counts), tuple(counts), config, weights, source)]
    names = {count: _lightning_name(count, files.name, present) for count in counts}
    return [_lightning(files, base, count, name) for count, name in names.items()]


def _lightning_name(count: int, repository: str, present: Collection[str]) -> str:
    name = _LIGHTNING_ONE_STEP if count == 1 else _LIGHTNING_FILE.format(count)
    if name not in present:
        have = sorted(file for file in present if re.search(r"unet(_x0)?\.safetensors$", file))
        raise ExportError(
            f"{repository} has no {name} (it has {', '.join(have) or 'no such files'}); pass "
            f"--unet {count}=SOURCE, or leave {count} out of --steps"
        )
    return name


def _lightning(files: Repository, base: Base, count: int, name: str) -> Unet:
    config = base.config("unet")
    weights = file_weights(files.fetch(name), "unet", config)
    source = Source(checkpoint=f"{files.name}/{name}", revision=files.revision)
    return Unet(_name([count]), (count,), config, weights, source, _predicts(name))


def _predicts(name: str) -> Prediction | None:
    """Lightning's 1-step UNet predicts the picture, the others the noise (its model card)."""
    if "_x0" in name:
        return Prediction.SAMPLE
    return Prediction.EPSILON if "lightning" in name.lower() else None


def _check_steps_in_name(name: str, counts: Sequence[int]) -> None:
    """A file called ...4step... for another count gives bad pictures without a word: refused."""
    match = _STEPS_IN_NAME.search(name)
    if match and [int(match[1])] != list(counts):
        raise ExportError(
            f"{name} is a UNet for {match[1]} steps, asked to serve {', '.join(map(str, counts))}; "
            f"pass --steps {match[1]}, or one source per count with --unet {match[1]}={name}"
        )
