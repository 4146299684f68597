"""Checkpoint tensors, read one at a time: from mapped files, or drawn from a seed.

A tensor is copied out of its file when it is read and the file is unmapped again, so the resident
memory of an export is one tensor, whatever the checkpoint's size and dtype.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..engine.errors import ExportError

Arrange = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Gives the tensors of files under a component's own keys, as views of what it is given."""

_REMAPPED_AFTER = 32 << 20
"""Bytes read from a pickle before it is mapped anew: what was read of a mapping stays resident."""


class Weights(Protocol):
    """The tensors of one component by checkpoint key."""

    @property
    def origin(self) -> str:
        """What they come from, for errors and the manifest."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides their values."""
        ...

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor there is."""
        ...

    def read(self, key: str) -> Tensor:
        """One tensor in its stored dtype, in memory of its own."""
        ...


@dataclass(frozen=True)
class _View:
    """A tensor as a strided view of what a file stores under `stored`."""

    file: Path
    stored: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class FileWeights:
    """Tensors of safetensors files (or pickles of tensors), arranged under canonical keys."""

    def __init__(self, files: Sequence[Path], origin: str, arrange: Arrange) -> None:
        """Read the files' headers; no tensor is read before `read`.

        Raises ExportError for files that cannot be read and layouts that are not known.
        """
        self.origin = origin
        self._files = tuple(files)
        self._views: dict[str, _View] = {}
        self._copies: dict[str, Tensor] = {}  # what the arrangement could not give as a view
        self._pickled: tuple[Path, dict[str, Tensor]] | None = None  # the last that was mapped
        self._read_of_pickle = 0
        with ExitStack() as stack:
            stored: dict[str, Tensor] = {}
            place: dict[int, tuple[Path, str]] = {}
            for file in files:
                for name, tensor in _open(file, stack).items():
                    stored[name] = tensor
                    place[tensor.untyped_storage().data_ptr()] = (file, name)
            for key, tensor in arrange(stored).items():
                found = place.get(tensor.untyped_storage().data_ptr())
                if found is None:
                    self._copies[key] = tensor.clone()
                    continue
                file, name = found
                self._views[key] = _View(
                    file, name, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()
                )

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in self._files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {
            **{key: view.shape for key, view in self._views.items()},
            **{key: tuple(tensor.shape) for key, tensor in self._copies.items()},
        }

    def read(self, key: str) -> Tensor:
        if key in self._copies:
            return self._copies[key].clone()
        if key not in self._views:
            raise ExportError(f"{self.origin} has no tensor {key!r}; copy the checkpoint again")
        view = self._views[key]
        with ExitStack() as stack:
            if view.file.suffix == ".safetensors":
                tensor = _open(view.file, stack, only=view.stored)[view.stored]
            else:
                tensor = self._mapped_pickle(view.file)[view.stored]
                self._read_of_pickle += tensor.nbytes
            return tensor.as_strided(view.shape, view.stride, view.offset).clone()

    def _mapped_pickle(self, file: Path) -> dict[str, Tensor]:
        """Its tensors; unlike safetensors, a pickle takes long to open, so that it stays mapped."""
        pickled = self._pickled
        if pickled is None or pickled[0] != file or self._read_of_pickle > _REMAPPED_AFTER:
            self._pickled = pickled = None  # unmapped before it is mapped again
            self._pickled = pickled = file, _open(file, ExitStack())
            self._read_of_pickle = 0
        return pickled[1]


def _open(file: Path, stack: ExitStack, only: str | None = None) -> dict[str, Tensor]:
    """Tensors of a file as views of its mapping, which lasts as long as any of them."""
    try:
        if file.suffix == ".safetensors":
            opened = stack.enter_context(safe_open(file, "pt"))
            return {name: opened.get_tensor(name) for name in ([only] if only else opened.keys())}
        loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        return {name: each.detach() for name, each in loaded.items() if isinstance(each, Tensor)}
    # torch.load raises pickle's, zipfile's and its own errors for damaged files
    except Exception as error:
        raise ExportError(
            f"{file} cannot be read as weights ({error}); copy the checkpoint again"
        ) from error


class SyntheticWeights:
    """Seeded random weights of a whole architecture that keep activations finite and of unit size.

    Matrices and kernels have variance 1 / fan-in (LeCun et al. 1998), so every layer keeps the size
    of what it is given; norms are the identity, biases 0. A tensor depends on the seed and its key
    alone, not on the order of reading.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: str) -> None:
        self.origin = f"synthetic {seed}"
        self._shapes = dict(shapes)
        self._seed = seed

    @property
    def fingerprint(self) -> str:
        described = f"{self._seed} {sorted(self._shapes.items())} numpy PCG64 v1"
        return hashlib.sha256(described.encode()).hexdigest()

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def read(self, key: str) -> Tensor:
        shape = self._shapes[key]
        if len(shape) < 2:
            return torch.ones(shape) if key.endswith("weight") else torch.zeros(shape)
        digest = hashlib.sha256(f"{self._seed}/{key}".encode()).digest()
        numbers = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16])))
        drawn = numbers.standard_normal(shape, np.float32)
        drawn *= np.float32(
            0.02 if key.endswith("_embedding.weight") else 1 / math.sqrt(math.prod(shape[1:]))
        )
        return torch.from_numpy(drawn)


def check_shapes(weights: Weights, wanted: Mapping[str, tuple[int, ...]], role: str) -> None:
    """Raise ExportError unless every wanted tensor is there in its shape."""
    found = weights.shapes()
    missing = [key for key in wanted if key not in found]
    if missing:
        raise ExportError(
            f"{weights.origin} lacks {len(missing)} of the {len(wanted)} tensors of {role}, such "
            f"as {missing[0]!r}; pass a whole SDXL checkpoint, and --config if it has another shape"
        )
    for key, shape in wanted.items():
        if found[key] != shape:
            raise ExportError(
                f"{weights.origin}: {key} has shape {found[key]}, the configuration of {role} "
                f"wants {shape}; pass weights and configuration of one model"
            )


def as_array(tensor: Tensor, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """The tensor as a contiguous array of the stored dtype.

    Raises OverflowError where that cannot hold it, ValueError where it is NaN or infinite itself.
    """
    cast = tensor.to(dtype)
    if not bool(torch.isfinite(cast).all()):
        raise OverflowError if bool(torch.isfinite(tensor).all()) else ValueError
    return np.ascontiguousarray(cast.numpy())
