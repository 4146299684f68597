"""The TensorRT library, either of its two: one code path, what only one has is asked for by name.

`tensorrt` (10.16 and 11, datacentre and RTX GPUs) and `tensorrt_rtx` (RTX GPUs, engines compiled
further when they are loaded) share every name used here but those guarded by `hasattr`.
"""

import hashlib
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from platformdirs import user_cache_path

from ..atomic_write import write_atomically
from ..engine_key import Flavour
from ..engine_record import Runtime
from ..errors import DeviceUnavailable, EngineStale, SessionError
from ..gpus import Gpu
from .base import TensorSpec
from .cuda_device import describe_gpu, out_of_memory

if TYPE_CHECKING:
    import tensorrt_rtx as trt  # has every name of the other: tests/support/stubs

MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
Specs = dict[str, TensorSpec]
_LACKED_MEMORY = ("out of memory", "outofmemory", "memoryallocation")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Execution:
    """An engine's execution context, without device memory of its own.

    captures_itself: TensorRT-RTX replays its own CUDA graph; nobody else may capture it.
    cache: its runtime cache, or None where there is no such thing.
    """

    context: "trt.IExecutionContext"
    captures_itself: bool
    cache: "RuntimeCache | None"


def runtime_here(flavour: Flavour, index: int) -> Runtime:
    """What this process can load on the GPU of that index; DeviceUnavailable if nothing."""
    module = _module(flavour)
    gpu = describe_gpu(index)
    _check_supported(module, gpu)
    version = str(module.__version__)
    return Runtime(flavour, version, gpu.target, gpu.name, device_index=index)


class TensorRt:
    """A TensorRT runtime on one GPU, which must be current when it is made and used."""

    def __init__(self, flavour: Flavour, gpu: Gpu) -> None:
        self._module = _module(flavour)
        self._gpu = gpu
        self._log = _log(self._module)
        self._runtime: trt.Runtime = self._module.Runtime(self._log)

    def deserialised(self, plan: memoryview, component: str) -> "trt.ICudaEngine":
        """The engine of a plan, its weights on the GPU.

        Raises EngineStale for one TensorRT refuses before it loads it, DeviceOutOfMemory, or
        SessionError.
        """
        self._log.errors.clear()
        if hasattr(self._runtime, "get_engine_validity"):
            self._check_validity(plan, component)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self.failure("loading", component, plan.nbytes)
        return engine

    def execution(self, engine: "trt.ICudaEngine", plan_sha256: str) -> Execution | None:
        """A context that is given its device memory, with what TensorRT-RTX offers beside.

        None if TensorRT makes none; `failure` says why.
        """
        strategies = self._module.ExecutionContextAllocationStrategy
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategies.USER_MANAGED)
        captures_itself = hasattr(config, "cuda_graph_strategy")
        if captures_itself:
            config.cuda_graph_strategy = self._module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cached = None
        if hasattr(config, "create_runtime_cache"):
            cached = RuntimeCache.of(config, self._cache_path(plan_sha256))
        context = engine.create_execution_context(config)
        return None if context is None else Execution(context, captures_itself, cached)

    def inputs_and_outputs(
        self, engine: "trt.ICudaEngine"
    ) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        """Every input and every output, their sizes fixed."""
        inputs: Specs = {}
        outputs: Specs = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            shape = tuple(engine.get_tensor_shape(name))
            is_input = engine.get_tensor_mode(name) == self._module.TensorIOMode.INPUT
            if any(size < 0 for size in shape):
                raise SessionError(
                    f"an engine leaves the size of {name!r} open: {shape}; build it with "
                    "`lightfill build`, which fixes every size"
                )
            dtype = np.dtype(self._module.nptype(engine.get_tensor_dtype(name)))
            (inputs if is_input else outputs)[name] = TensorSpec(dtype, shape)
        return inputs, outputs

    def failure(self, doing: str, component: str, wanted: int = 0) -> SessionError:
        """Why TensorRT did not do something, from what it logged; `wanted` bytes, if it lacked."""
        errors = " ".join(self._log.errors)
        if any(sign in errors.lower() for sign in _LACKED_MEMORY):
            return out_of_memory(self._gpu, component, wanted)
        return SessionError(
            f"TensorRT failed while {doing} {component}: {errors or 'it gives no reason'}; run "
            "`lightfill doctor`, delete the engine, and build it again on this machine with "
            "`lightfill build`"
        )

    def _check_validity(self, plan: memoryview, component: str) -> None:
        validity, diagnostics = self._runtime.get_engine_validity(plan)
        if validity != self._module.EngineValidity.INVALID:
            return
        kinds = self._module.EngineInvalidityDiagnostics.__members__
        names = [name for name, bit in kinds.items() if int(diagnostics) & int(bit)]
        if "INSUFFICIENT_GPU_MEMORY" in names:
            raise out_of_memory(self._gpu, component, plan.nbytes)
        raise EngineStale(
            f"TensorRT-RTX refuses the engine of {component} here "
            f"({', '.join(names) or 'it gives no reason'}); update NVIDIA's driver, or build the "
            "engine again on this machine with `lightfill build`"
        )

    def _cache_path(self, plan_sha256: str) -> Path:
        """Bound to plan, TensorRT-RTX and GPU; TensorRT-RTX checks driver and system itself."""
        bound_to = f"{plan_sha256} {self._module.__version__} {self._gpu}"
        name = hashlib.sha256(bound_to.encode()).hexdigest()
        return user_cache_path("lightfill", appauthor=False) / "runtime" / f"{name}.cache"


class RuntimeCache:
    """What TensorRT-RTX compiled for this GPU, kept on disk so that the next process need not.

    A file that does not fit, or a directory that cannot be written, only costs that time again.
    """

    def __init__(self, cache: "trt.IRuntimeCache", path: Path) -> None:
        self._cache = cache
        self._path = path
        self._on_disk = 0

    @classmethod
    def of(cls, config: "trt.IRuntimeConfig", path: Path) -> "RuntimeCache":
        """A cache made by `config` and set in it, filled from `path` where that fits."""
        found = cls(config.create_runtime_cache(), path)
        with suppress(OSError):
            content = path.read_bytes()
            if found._cache.deserialize(content):
                found._on_disk = len(content)
            else:
                logger.info("%s is of another machine or version: compiled again", path)
        config.set_runtime_cache(found._cache)
        return found

    def save(self) -> None:
        """Write what was compiled since it was read, if anything was."""
        compiled = self._cache.serialize()
        if compiled is not None and compiled.nbytes != self._on_disk:
            with suppress(OSError):
                write_atomically(self._path, bytes(memoryview(compiled)))
                self._on_disk = compiled.nbytes


def _module(flavour: Flavour) -> Any:
    try:
        return import_module(MODULES[flavour])
    except ImportError as error:
        raise DeviceUnavailable(
            f"{MODULES[flavour]} is not installed ({error}); `pip install 'lightfill[{flavour}]'`"
        ) from error


def _check_supported(module: Any, gpu: Gpu) -> None:
    """TensorRT-RTX lists the compute capabilities it has kernels for; TensorRT has no such list."""
    if not hasattr(module, "ComputeCapability"):
        return
    known = [name.lower() for name in module.ComputeCapability.__members__ if name[:2] == "SM"]
    if gpu.target not in known:
        raise DeviceUnavailable(
            f"TensorRT-RTX has no kernels for {gpu.name} ({gpu.target}; it has "
            f"{', '.join(known)}); use --device tensorrt"
        )


@cache
def _log(module: Any) -> Any:
    """The one logger of a library: a second would be ignored, which TensorRT only warns of."""

    class Log(module.ILogger):  # type: ignore[misc]
        """Keeps errors for our own messages; everything goes to Python's log."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=4)

        def log(self, severity: Any, msg: str) -> None:
            grave = severity in {module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR}
            if grave:
                self.errors.append(msg.strip())
            logger.debug("%s", msg)

    return Log()
