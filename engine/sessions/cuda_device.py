"""One NVIDIA GPU behind few verbs: memory, copies, one stream, captured graphs. No torch.

These are the CUDA runtime's own calls (`cuda.bindings.runtime`, of cuda-python): each returns its
error code, so whether memory was what lacked is read, not guessed from a message. Copies and
executions are queued on the device's one stream, in the order they are called; what the host may
read or write again is settled by `synchronise` alone.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceOutOfMemory, DeviceUnavailable, SessionError
from ..gpus import Gpu

_RUNTIME = "cuda.bindings.runtime"


@dataclass(frozen=True, eq=False)
class DeviceBlock:
    """`nbytes` of GPU memory from `address` on, aligned to 256 bytes."""

    address: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class PinnedBlock:
    """Page-locked host memory, which the GPU copies from and to while the host goes on.

    bytes: all of it, as uint8; what is queued on the stream may read or write it until
        `CudaDevice.synchronise` has returned.
    """

    address: int
    nbytes: int
    bytes: NDArray[np.uint8] = field(repr=False)


def describe_gpu(index: int) -> Gpu:
    """The GPU with this index; DeviceUnavailable says what is missing. Allocates nothing on it."""
    runtime = _runtime()
    status, count = runtime.cudaGetDeviceCount()
    if status != runtime.cudaError_t.cudaSuccess or not count:
        raise DeviceUnavailable(
            f"no NVIDIA GPU can be used here ({_reason(runtime, status)}); install NVIDIA's "
            "driver, or use --device cpu"
        )
    if index >= count:
        raise DeviceUnavailable(
            f"device_index {index} names no GPU: this machine has {count}; pass 0 to {count - 1}"
        )
    properties = _checked(runtime, "asking for the GPU", *runtime.cudaGetDeviceProperties(index))
    name = properties.name.split(b"\0")[0].decode(errors="replace")
    return Gpu(target=f"sm{properties.major}{properties.minor}", name=name)


class CudaDevice:
    """A GPU with one stream. Not thread-safe: its owner lets one thread at a time use it.

    Raises DeviceUnavailable without a driver or a GPU of that index, SessionError where a CUDA call
    fails, DeviceOutOfMemory where memory lacks.
    """

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.gpu = describe_gpu(index)
        self._runtime = _runtime()
        self._copies = self._runtime.cudaMemcpyKind
        self.activate()
        flags = self._runtime.cudaStreamNonBlocking  # nothing waits for the default stream
        self._stream = self._call("making a stream", "cudaStreamCreateWithFlags", flags)

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    def activate(self) -> None:
        """Make this GPU the calling thread's current one; every thread must before it calls."""
        self._call("choosing the GPU", "cudaSetDevice", self.index)

    def allocate(self, nbytes: int, purpose: str) -> DeviceBlock:
        """GPU memory of undefined content."""
        address = self._allocated("cudaMalloc", nbytes, "GPU memory", purpose)
        return DeviceBlock(address, nbytes)

    def allocate_pinned(self, nbytes: int, purpose: str) -> PinnedBlock:
        """Page-locked host memory of undefined content."""
        address = self._allocated("cudaMallocHost", nbytes, "page-locked host memory", purpose)
        content = (ctypes.c_uint8 * nbytes).from_address(address)
        return PinnedBlock(address, nbytes, np.ctypeslib.as_array(content))

    def free(self, block: DeviceBlock | PinnedBlock) -> None:
        """Give memory back; nothing queued may still use it."""
        call = "cudaFree" if isinstance(block, DeviceBlock) else "cudaFreeHost"
        self._call("freeing memory", call, block.address)

    def upload(self, target: DeviceBlock, source: PinnedBlock) -> None:
        """Queue a copy of all of `source` to the GPU."""
        self._copy(target, source, self._copies.cudaMemcpyHostToDevice)

    def download(self, target: PinnedBlock, source: DeviceBlock) -> None:
        """Queue a copy of all of `source` to the host."""
        self._copy(target, source, self._copies.cudaMemcpyDeviceToHost)

    def synchronise(self) -> None:
        """Wait until everything queued has run."""
        self._call("running", "cudaStreamSynchronize", self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """What `enqueue` queues, as a graph that replays it with the same addresses; runs nothing.

        Raises SessionError if something in it cannot be captured; the stream is usable afterwards.
        """
        # "Relaxed": other threads may allocate meanwhile, on other GPUs and streams.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        self._call("starting a capture", "cudaStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        except BaseException:
            self._abandon_capture()
            raise
        graph = self._call("ending a capture", "cudaStreamEndCapture", self._stream)
        try:
            return self._call("compiling a graph", "cudaGraphInstantiate", graph, 0)
        finally:
            self._call("freeing a graph", "cudaGraphDestroy", graph)

    def replay(self, graph: Any) -> None:
        """Queue a captured graph."""
        self._call("replaying a graph", "cudaGraphLaunch", graph, self._stream)

    def discard(self, graph: Any) -> None:
        """Free a captured graph."""
        self._call("freeing a graph", "cudaGraphExecDestroy", graph)

    def record(self) -> Any:
        """An event queued now, which keeps the moment at which everything before it has run."""
        event = self._call("making an event", "cudaEventCreate")
        try:
            self._call("queueing an event", "cudaEventRecord", event, self._stream)
        except BaseException:
            self.discard_event(event)
            raise
        return event

    def milliseconds(self, start: Any, end: Any) -> float:
        """Between two events that have both happened: after `synchronise`."""
        return float(self._call("reading events", "cudaEventElapsedTime", start, end))

    def discard_event(self, event: Any) -> None:
        """Free an event."""
        self._call("freeing an event", "cudaEventDestroy", event)

    def close(self) -> None:
        """Free the stream; memory must have been freed before."""
        self._call("freeing the stream", "cudaStreamDestroy", self._stream)

    def _allocated(self, call: str, nbytes: int, kind: str, purpose: str) -> int:
        status, *values = getattr(self._runtime, call)(nbytes)
        if status == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            self._runtime.cudaGetLastError()  # or the next call would report it again
            raise out_of_memory(self.gpu, purpose, nbytes, kind)
        return int(_checked(self._runtime, f"allocating {purpose}", status, *values))

    def _copy(self, target: Any, source: Any, kind: Any) -> None:
        if target.nbytes != source.nbytes:
            raise SessionError(
                f"a copy of {source.nbytes} bytes to {target.nbytes} was asked for; report this"
            )
        arguments = (target.address, source.address, source.nbytes, kind, self._stream)
        self._call("copying", "cudaMemcpyAsync", *arguments)

    def _abandon_capture(self) -> None:
        _, graph = self._runtime.cudaStreamEndCapture(self._stream)
        self._runtime.cudaGetLastError()  # a capture that failed leaves its error
        if graph is not None and int(graph):
            self._runtime.cudaGraphDestroy(graph)

    def _call(self, doing: str, name: str, *arguments: Any) -> Any:
        return _checked(self._runtime, doing, *getattr(self._runtime, name)(*arguments))


def out_of_memory(
    gpu: Gpu, purpose: str, nbytes: int, kind: str = "GPU memory"
) -> DeviceOutOfMemory:
    """The error for `nbytes` that are not there."""
    return DeviceOutOfMemory(
        f"{gpu.name} has no {nbytes} bytes of {kind} left for {purpose}; close other programs that "
        "use it, set a lower vram_budget_bytes, or choose a smaller image_size or batch_size",
        wanted=nbytes,
    )


def _runtime() -> Any:
    try:
        return import_module(_RUNTIME)
    except ImportError as error:
        raise DeviceUnavailable(
            f"cuda-python is not installed ({error}); `pip install 'lightfill[tensorrt]'`, or "
            "'lightfill[rtx]' for an RTX GPU"
        ) from error


def _checked(runtime: Any, doing: str, status: Any, *values: Any) -> Any:
    """What a call returned beside its status: nothing, one value, or several."""
    if status != runtime.cudaError_t.cudaSuccess:
        runtime.cudaGetLastError()
        raise SessionError(
            f"CUDA failed while {doing}: {_reason(runtime, status)}; start a new process, and if "
            "it fails again, run `lightfill doctor` and update NVIDIA's driver"
        )
    return values[0] if len(values) == 1 else values


def _reason(runtime: Any, status: Any) -> str:
    _, text = runtime.cudaGetErrorString(status)
    return str(text.decode(errors="replace"))
