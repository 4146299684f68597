"""What of `tensorrt` and `tensorrt_rtx` is used, over a simulated machine.

A plan is a small JSON text that names an ONNX graph, the tensors with their fixed sizes, and how
much memory to pretend to need.
"""

import json
import weakref
from collections.abc import Mapping
from enum import IntEnum
from functools import cache
from math import prod
from typing import Any

import numpy as np
import onnxruntime as ort

from .machine import Machine, Memory, SimulatedFault

VERSION, RTX_VERSION = "11.4.0.106", "1.7.1.116"


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT64 = 8


_NUMPY = {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT64: np.int64}


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class CudaGraphStrategy(IntEnum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class EngineValidity(IntEnum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    INSUFFICIENT_GPU_MEMORY = 16
    MALFORMED_ENGINE = 32


class ComputeCapability(IntEnum):
    NONE = 0
    CURRENT = 1
    SM75 = 75
    SM80 = 80
    SM86 = 86
    SM89 = 89
    SM120 = 120
    SM121 = 121


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    """Base of loggers."""

    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING


class Recorded:
    """An object whose public names are recorded when they are read or set."""

    _machine: Machine

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("_"):
            machine = object.__getattribute__(self, "_machine")
            machine.touched.add((type(self).__name__, name))
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            if not hasattr(type(self), name):
                raise AttributeError(f"{type(self).__name__} has no {name}")
            self._machine.touched.add((type(self).__name__, name))
        object.__setattr__(self, name, value)


class TensorRtNames:
    """The module's names; those of TensorRT-RTX alone are absent in the other."""

    DataType = DataType
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    ILogger = ILogger

    def __init__(self, machine: Machine, *, rtx: bool) -> None:
        kind = RtxRuntime if rtx else Runtime
        self.Runtime = lambda logger: kind(machine, logger)
        if rtx:
            self.CudaGraphStrategy = CudaGraphStrategy
            self.EngineValidity = EngineValidity
            self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
            self.ComputeCapability = ComputeCapability

    @staticmethod
    def nptype(trt_type: DataType) -> type[Any]:
        return _NUMPY[trt_type]


class Runtime(Recorded):
    """Deserialises plans; one it cannot read is None and a line in the log."""

    def __init__(self, machine: Machine, logger: Any) -> None:
        self._machine = machine
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: memoryview) -> "ICudaEngine | None":
        self._machine.events.append("deserialise")
        try:
            plan = json.loads(bytes(serialized_engine))
        except ValueError:
            self._logger.log(Severity.ERROR, "Serialization assertion magicTag failed")
            return None
        weights = self._machine.allocate(
            plan["weights_bytes"], self._machine.current_gpu, "weights"
        )
        if weights is None:
            self._logger.log(Severity.ERROR, "[defaultAllocator] Cuda error: out of memory")
            return None
        self._machine.events.append("loaded")
        rtx = isinstance(self, RtxRuntime)
        return ICudaEngine(self._machine, self._logger, plan, weights, rtx=rtx)


class RtxRuntime(Runtime):
    """TensorRT-RTX tells from a plan's header whether it will load it."""

    engine_header_size = 64

    def get_engine_validity(self, buffer: memoryview) -> tuple[EngineValidity, int]:
        if self._machine.diagnosis:
            return EngineValidity.INVALID, int(self._machine.diagnosis)
        return EngineValidity.VALID, 0


class ICudaEngine(Recorded):
    """An engine, its weights in GPU memory for as long as it lives."""

    def __init__(
        self, machine: Machine, logger: Any, plan: dict[str, Any], weights: Memory, *, rtx: bool
    ) -> None:
        self._machine = machine
        self._logger = logger
        self._plan = plan
        self._rtx = rtx
        self._tensors: dict[str, Any] = {**plan["inputs"], **plan["outputs"]}
        weakref.finalize(self, machine.free, weights).atexit = False

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def device_memory_size_v2(self) -> int:
        return int(self._plan["activation_bytes"])

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._plan["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name]["shape"])

    def get_tensor_dtype(self, name: str) -> DataType:
        return next(kind for kind, dtype in _NUMPY.items() if dtype == self._dtype(name))

    def create_runtime_config(self) -> "IRuntimeConfig":
        return (RtxRuntimeConfig if self._rtx else IRuntimeConfig)(self._machine)

    def create_execution_context(self, runtime_config: "IRuntimeConfig") -> "IExecutionContext":
        return IExecutionContext(self._machine, self, runtime_config)

    def _dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(self._tensors[name]["dtype"])

    def _nbytes(self, name: str) -> int:
        return prod(self._tensors[name]["shape"]) * self._dtype(name).itemsize


class IRuntimeConfig(Recorded):
    """How a context is made."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._strategy = ExecutionContextAllocationStrategy.STATIC
        self._cache: IRuntimeCache | None = None

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self._strategy = strategy


class RtxRuntimeConfig(IRuntimeConfig):
    """TensorRT-RTX's, which has more."""

    cuda_graph_strategy = CudaGraphStrategy.DISABLED

    def create_runtime_cache(self) -> "IRuntimeCache":
        return IRuntimeCache(self._machine)

    def set_runtime_cache(self, cache: "IRuntimeCache") -> bool:
        self._cache = cache
        return True


class IRuntimeCache(Recorded):
    """Compiled kernels, one per executed graph; of another version, it is refused."""

    _HEADER = b"simulated cache 1\n"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(self._HEADER):
            return False
        self._kernels = set(blob[len(self._HEADER) :].decode().split())
        self._machine.events.append("cache read")
        return True

    def serialize(self) -> "IHostMemory":
        content = IHostMemory(self._HEADER + " ".join(sorted(self._kernels)).encode())
        content._machine = self._machine
        return content


class IHostMemory(bytes):
    """Has the buffer protocol and says how many bytes it has."""

    _machine: Machine

    @property
    def nbytes(self) -> int:
        self._machine.touched.add(("IHostMemory", "nbytes"))
        return len(self)


class IExecutionContext(Recorded):
    """Executes an engine with the addresses it was told last."""

    def __init__(self, machine: Machine, engine: ICudaEngine, config: IRuntimeConfig) -> None:
        self._machine = machine
        self._engine = engine
        self._config = config
        self._addresses: dict[str, int] = {}
        self._shapes: set[str] = set()
        self._block: tuple[int, int] | None = None
        self._warm = False
        if config._strategy != ExecutionContextAllocationStrategy.USER_MANAGED:
            machine.fault("activation memory is not shared: the context allocates its own")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes.add(name)
        return tuple(self._engine._tensors[name]["shape"]) == tuple(shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory % 256:
            self._machine.fault(f"{name} lies at {memory:#x}, which is not aligned")
        self._addresses[name] = int(memory)
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        if size < self._engine._plan["activation_bytes"]:
            self._machine.fault(
                f"{size} bytes of activations, the engine needs "
                f"{self._engine._plan['activation_bytes']}"
            )
        self._block = (int(memory), int(size))

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = self._machine.stream(int(stream_handle), "executing")
        problem = self._problem()
        if stream.captured is not None and not self._warm:
            problem = "captured before it was executed once"
        if problem:
            stream.capture_broken = True
            self._engine._logger.log(Severity.ERROR, f"enqueueV3: {problem}")
            return False
        if stream.captured is not None and getattr(self._config, "cuda_graph_strategy", 0):
            self._machine.fault("a context that captures its own graph is captured")
        stream.add(_Execution(self))
        self._machine.events.append(f"execute {self._engine._plan['component']}")
        return True

    def _problem(self) -> str:
        """Why this cannot be queued, or nothing; real memory may also be what lacks."""
        machine, engine = self._machine, self._engine
        if machine.pending_error is not None:
            return f"an error nobody read: {machine.pending_error.name}"
        if machine.failing == engine._plan["component"]:
            return machine.failure
        unbound = engine._tensors.keys() - self._addresses.keys()
        shapeless = engine._plan["inputs"].keys() - self._shapes
        if unbound or shapeless:
            return f"unbound {sorted(unbound)}, without a shape {sorted(shapeless)}"
        return "" if self._block else "no device memory was set"


class _Execution:
    """One queued execution: addresses as they were when it was queued, or captured."""

    def __init__(self, context: IExecutionContext) -> None:
        self._context = weakref.ref(context)
        self.component = context._engine._plan["component"]
        self._machine = context._machine
        self._addresses = dict(context._addresses)
        self._block = context._block

    def run(self) -> None:
        machine, doing = self._machine, f"executing {self.component}"
        context = self._context()
        if context is None or self._block is None:
            machine.fault(f"{doing}: its context was destroyed before it ran")
        engine = context._engine
        memory, place = machine.at(*self._block, f"{doing}: activations")
        feed = {
            name: machine.read(self._addresses[name], engine._nbytes(name), f"{doing}: {name}")
            .view(engine._dtype(name))
            .reshape(tensor["shape"])
            for name, tensor in engine._plan["inputs"].items()
        }
        memory.content[place] = 0xA5  # nothing in it may be needed by anyone else
        results = _run(engine._plan["graph"], feed, list(engine._plan["outputs"]))
        for name, array in results.items():
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            if len(content) != engine._nbytes(name):
                raise SimulatedFault(f"the graph makes {array.shape} of {name}")
            machine.write(self._addresses[name], content, f"{doing}: {name}")
        context._warm = True
        if context._config._cache is not None:
            context._config._cache._kernels.add(self.component)


@cache
def onnx_session(graph: str) -> ort.InferenceSession:
    """A graph in ONNX Runtime, loaded once."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _run(
    graph: str, feed: Mapping[str, np.ndarray[Any, Any]], outputs: list[str]
) -> dict[str, np.ndarray[Any, Any]]:
    return dict(zip(outputs, onnx_session(graph).run(outputs, dict(feed)), strict=True))
