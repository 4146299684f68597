"""What every runtime looks like to the engine: named tensors in, named tensors out.

The public `run` checks the feed, calls the runtime, and checks what came back (a template method):
a wrong name, dtype or shape is reported in the contract's words before any runtime sees it, and NaN
or infinity never travels on as a black picture.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..checks import flag, whole_number
from ..components import Contract, Tensor, symbol_of
from ..errors import ContractViolation, InvalidInput, NonFiniteOutput
from ..manifest import Arithmetic
from ..precision import PRECISIONS

if TYPE_CHECKING:
    from .device_times import OnDeviceTime

Array = NDArray[Any]
Feed = Mapping[str, Array]

ARITHMETIC: dict[str, Arithmetic] = {
    "cpu": "float32",
    "openvino": "float32",
    "cuda": "float16",
    "tensorrt": "float16",
    "rtx": "float16",
    "null": "float32",
}
"""What each device computes in: which of a component's graphs it loads."""
PRECISION_DEVICE = "openvino"
"""The device that has precisions below float32."""
_ELEMENTS = {"float32": np.float32, "float16": np.float16, "int64": np.int64}
MAX_THREADS = 1024
MAX_DEVICES = 64


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a session may use the machine.

    threads: CPU threads inside one operator; None is the runtime's choice (all physical cores).
    memory_arena: keep freed blocks for the next run (faster) or return them (lower peak memory).
    device_index: which accelerator, where there are several.
    weights_mapped: on "cpu", leave the weights on disk as they are stored and map them: each is
        cast to float32 when its operator runs, where otherwise all are copied to float32, and
        packed, when the component is loaded. Loads at once, peaks far lower, runs slower; results
        differ in their last bits. Other devices copy weights into a form of their own regardless.
    vram_budget_bytes: on "tensorrt" and "rtx", GPU memory that all engines of this process may take
        together; the least recently used make room. None: what the GPU has.
    engines: on "tensorrt" and "rtx", the directory of the engines; None is the bundle's own.
    build_missing: on "tensorrt" and "rtx", build an engine that is not there, which takes minutes,
        where otherwise an error names the command that does.
    precision: on "openvino", one of `engine.precision.PRECISIONS`; None is float32. "bf16" computes
        UNet and VAE in bfloat16, "int8" runs the UNet that `lightfill quantize` made, "int8+bf16"
        both.
    on_device_time: on "tensorrt" and "rtx", called with each run's time on the GPU
        (`device_times.DeviceTime`), which costs a few events a run; None records nothing.
    """

    threads: int | None = None
    memory_arena: bool = True
    device_index: int = 0
    weights_mapped: bool = False
    vram_budget_bytes: int | None = None
    engines: str | os.PathLike[str] | None = None
    build_missing: bool = False
    precision: str | None = None
    on_device_time: "OnDeviceTime | None" = None

    def __post_init__(self) -> None:
        """Raise InvalidInput for values no runtime takes."""
        if self.threads is not None:
            whole_number("threads", self.threads, 1, MAX_THREADS)
        flag("memory_arena", self.memory_arena)
        whole_number("device_index", self.device_index, 0, MAX_DEVICES - 1)
        flag("weights_mapped", self.weights_mapped)
        if self.vram_budget_bytes is not None:
            whole_number("vram_budget_bytes", self.vram_budget_bytes, 1, 2**63)
        if not isinstance(self.engines, str | os.PathLike | None):
            raise InvalidInput("engines", f"{self.engines!r} is no path; pass a directory, or None")
        flag("build_missing", self.build_missing)
        if self.precision not in {None, *PRECISIONS}:
            raise InvalidInput(
                "precision", f"{self.precision!r} is none; choose {', '.join(PRECISIONS)}, or None"
            )
        if self.on_device_time is not None and not callable(self.on_device_time):
            raise InvalidInput(
                "on_device_time", f"{self.on_device_time!r} cannot be called; pass a function"
            )


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: dtype and shape; a string is a dimension that varies from run to run."""

    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


class Session(ABC):
    """One loaded component on one device. Thread-safe, and a context manager."""

    def __init__(
        self,
        component: str,
        device: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
    ) -> None:
        self.component = component
        self.device = device
        self.inputs = inputs
        self.outputs = outputs

    def run(self, feed: Feed) -> dict[str, Array]:
        """Run once; arrays are C-contiguous or copied, never modified.

        Raises ContractViolation for a wrong feed, NonFiniteOutput for NaN or infinity in a result,
        SessionError when the runtime fails.
        """
        self._check_feed(feed)
        results = self._run(feed)
        for name, array in results.items():
            if not _is_finite(array):
                raise NonFiniteOutput(
                    f"{self.component} produced NaN or infinity in {name!r} on {self.device}; "
                    "check the weights with `lightfill info --check`, or run with --device cpu, "
                    "which computes in float32"
                )
        return results

    def require(self, sizes: Mapping[str, int]) -> None:  # noqa: B027 - most need nothing
        """Raise unless inputs of these sizes (batch, latent height and width) can be run.

        Loads nothing, so that a request is refused before any work is done. Graphs run every size.
        """

    @abstractmethod
    def _run(self, feed: Feed) -> dict[str, Array]: ...

    @abstractmethod
    def close(self) -> None:
        """Free the runtime's memory; the session cannot run afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_feed(self, feed: Feed) -> None:
        if feed.keys() != self.inputs.keys():
            raise ContractViolation(
                f"{self.component} takes inputs {sorted(self.inputs)}, was given {sorted(feed)}"
            )
        sizes: dict[str, int] = {}
        for name, spec in self.inputs.items():
            array = feed[name]
            if array.dtype != spec.dtype:
                raise ContractViolation(
                    f"{self.component} input {name!r} is {spec.dtype}, was given {array.dtype}"
                )
            if not _shape_fits(array.shape, spec.shape, sizes):
                raise ContractViolation(
                    f"{self.component} input {name!r} has shape {spec.shape}, "
                    f"was given {array.shape}"
                )


def _shape_fits(
    actual: tuple[int, ...], wanted: tuple[int | str, ...], sizes: dict[str, int]
) -> bool:
    """Whether `actual` matches; one symbol has one size in the whole feed, kept in `sizes`."""
    if len(actual) != len(wanted):
        return False
    return all(
        size == (dimension if isinstance(dimension, int) else sizes.setdefault(dimension, size))
        for size, dimension in zip(actual, wanted, strict=True)
    )


def _is_finite(array: Array) -> bool:
    """Whether no element is NaN or infinite: two reductions, no temporary of the array's size."""
    if array.size == 0 or not np.issubdtype(array.dtype, np.floating):
        return True
    return bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def sizes_of(inputs: Mapping[str, Tensor], feed: Feed) -> dict[str, int]:
    """Size of every varying symbol in this feed."""
    sizes = {}
    for name, tensor in inputs.items():
        for dimension, size in zip(tensor.shape, feed[name].shape, strict=True):
            if isinstance(dimension, str):
                factor, symbol = symbol_of(dimension)
                sizes[symbol] = size // factor
    return sizes


def specs_of(tensors: Mapping[str, Tensor], arithmetic: Arithmetic) -> dict[str, TensorSpec]:
    """What a contract alone says, before a graph is loaded: the model's own widths are open."""
    return {
        name: TensorSpec(
            np.dtype(_ELEMENTS[arithmetic if tensor.element == "activation" else tensor.element]),
            tuple(f"{name}[{i}]" if size is None else size for i, size in enumerate(tensor.shape)),
        )
        for name, tensor in tensors.items()
    }


def check_contract(
    component: str,
    contract: Contract,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
) -> None:
    """Raise ContractViolation unless a loaded graph has the contract's names and ranks."""
    for kind, found, wanted in (
        ("inputs", inputs, contract.inputs),
        ("outputs", outputs, contract.outputs),
    ):
        ranks = {name: len(spec.shape) for name, spec in found.items()}
        expected = {name: len(tensor.shape) for name, tensor in wanted.items()}
        if ranks != expected:
            raise ContractViolation(
                f"{component} has {kind} {ranks} (name: rank), expected {expected}; "
                "export the bundle again with this version of lightfill"
            )
