"""What of `cuda.bindings.runtime` is used, over a simulated machine."""
# ruff: noqa: N801, N815, N816 - the names are the real bindings'

import itertools
import time
from enum import IntEnum
from typing import Any

import numpy as np

from .machine import POISON, Call, Machine, Memory, Operation, Stream

cudaStreamNonBlocking = 1


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorNotReady = 600
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class Properties:
    """cudaDeviceProp."""

    def __init__(self, machine: Machine) -> None:
        self.name = machine.name.encode()
        self.major, self.minor = machine.capability


class Handle:
    """A stream's or graph's handle, a number with a type."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __int__(self) -> int:
        return self.value


class Graph(Handle):
    """A captured or an executable graph: operations whose addresses are those of the capture."""

    def __init__(self, value: int, operations: list[Operation]) -> None:
        super().__init__(value)
        self.operations = operations
        self.destroyed = False


class Event(Handle):
    """A moment of a stream; None until the stream has come to it."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.happened: float | None = None
        self.destroyed = False


class Cuda:
    """The runtime's functions; each returns its status first, as the real bindings do."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = cudaStreamNonBlocking

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._numbers = itertools.count(1000)

    def cudaGetDeviceCount(self) -> Any:
        if self._machine.gpus == 0:
            return self._failed(cudaError_t.cudaErrorNoDevice), 0
        return cudaError_t.cudaSuccess, self._machine.gpus

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return cudaError_t.cudaSuccess, Properties(self._machine)

    def cudaSetDevice(self, device: int) -> Any:
        if device >= self._machine.gpus:
            return (self._failed(cudaError_t.cudaErrorInvalidDevice),)
        self._machine.current_gpu = device
        return (cudaError_t.cudaSuccess,)

    def cudaMalloc(self, size: int) -> Any:
        return self._allocate(size, self._machine.current_gpu)

    def cudaMallocHost(self, size: int) -> Any:
        return self._allocate(size, None)

    def cudaFree(self, devPtr: int) -> Any:
        return self._free(devPtr, pinned=False)

    def cudaFreeHost(self, ptr: int) -> Any:
        return self._free(ptr, pinned=True)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: Handle) -> Any:
        queue = self._machine.stream(int(stream), "a copy")
        if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
            self._upload(queue, dst, src, count)
        elif kind == cudaMemcpyKind.cudaMemcpyDeviceToHost:
            self._download(queue, dst, src, count)
        else:
            self._machine.fault(f"a copy of kind {kind!r} is not simulated")
        return (cudaError_t.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        handle = next(self._numbers)
        self._machine.streams[handle] = Stream(handle, self._machine.current_gpu)
        return cudaError_t.cudaSuccess, Handle(handle)

    def cudaStreamDestroy(self, stream: Handle) -> Any:
        if self._machine.stream(int(stream), "destroying a stream").queue:
            self._machine.fault("a stream is destroyed with work queued on it")
        del self._machine.streams[int(stream)]
        return (cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Handle) -> Any:
        found = self._machine.stream(int(stream), "synchronising")
        if found.captured is not None:
            found.capture_broken = True
            return (self._failed(cudaError_t.cudaErrorStreamCaptureUnsupported),)
        self._machine.run(found)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: Handle, mode: Any) -> Any:
        found = self._machine.stream(int(stream), "capturing")
        found.captured, found.capture_broken = [], False
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Handle) -> Any:
        found = self._machine.stream(int(stream), "capturing")
        operations, found.captured = found.captured, None
        if operations is None or found.capture_broken:
            return self._failed(cudaError_t.cudaErrorStreamCaptureInvalidated), None
        return cudaError_t.cudaSuccess, self._graph(operations)

    def cudaGraphInstantiate(self, graph: Graph, flags: int) -> Any:
        return cudaError_t.cudaSuccess, self._graph(list(graph.operations))

    def cudaGraphLaunch(self, graphExec: Graph, stream: Handle) -> Any:
        if graphExec.destroyed:
            self._machine.fault("a graph is launched after it was destroyed")
        queue = self._machine.stream(int(stream), "launching a graph")
        if self._machine.failing in {
            getattr(each, "component", "") for each in graphExec.operations
        }:
            return (self._failed(cudaError_t.cudaErrorInvalidValue),)
        for operation in graphExec.operations:
            queue.add(operation)
        self._machine.events.append("replay")
        return (cudaError_t.cudaSuccess,)

    def cudaGraphDestroy(self, graph: Graph) -> Any:
        return self._destroy(graph)

    def cudaGraphExecDestroy(self, graphExec: Graph) -> Any:
        return self._destroy(graphExec)

    def cudaEventCreate(self) -> Any:
        self._machine.timers += 1
        return cudaError_t.cudaSuccess, Event(next(self._numbers))

    def cudaEventRecord(self, event: Event, stream: Handle) -> Any:
        def happen() -> None:
            event.happened = time.perf_counter()

        event.happened = None
        self._machine.stream(int(stream), "recording an event").add(Call(happen))
        return (cudaError_t.cudaSuccess,)

    def cudaEventElapsedTime(self, start: Event, end: Event) -> Any:
        if start.destroyed or end.destroyed:
            self._machine.fault("an event is read after it was destroyed")
        if start.happened is None or end.happened is None:
            return self._failed(cudaError_t.cudaErrorNotReady), None
        return cudaError_t.cudaSuccess, 1000 * (end.happened - start.happened)

    def cudaEventDestroy(self, event: Event) -> Any:
        if event.destroyed:
            self._machine.fault("an event is destroyed twice")
        event.destroyed = True
        self._machine.timers -= 1
        return (cudaError_t.cudaSuccess,)

    def cudaGetLastError(self) -> Any:
        error, self._machine.pending_error = self._machine.pending_error, None
        return (error or cudaError_t.cudaSuccess,)

    def cudaGetErrorString(self, error: cudaError_t) -> Any:
        return cudaError_t.cudaSuccess, f"simulated: {error.name}".encode()

    def _failed(self, status: cudaError_t) -> cudaError_t:
        self._machine.pending_error = status
        return status

    def _graph(self, operations: list[Operation]) -> Graph:
        self._machine.graphs += 1
        return Graph(next(self._numbers), operations)

    def _destroy(self, graph: Graph) -> Any:
        if graph.destroyed:
            self._machine.fault("a graph is destroyed twice")
        graph.destroyed = True
        self._machine.graphs -= 1
        return (cudaError_t.cudaSuccess,)

    def _allocate(self, size: int, gpu: int | None) -> Any:
        if any(stream.captured is not None for stream in self._machine.streams.values()):
            self._machine.fault("memory is allocated while a graph is captured")
        memory = self._machine.allocate(size, gpu, f"{size} bytes")
        if memory is None:
            return self._failed(cudaError_t.cudaErrorMemoryAllocation), None
        return cudaError_t.cudaSuccess, memory.address

    def _free(self, address: int, *, pinned: bool) -> Any:
        memory, place = self._machine.at(address, 0, "freeing")
        if place.start or (memory.gpu is None) != pinned:
            self._machine.fault(f"{address:#x} is no start of such memory to be freed")
        if memory.gpu is not None and memory.gpu != self._machine.current_gpu:
            self._machine.fault(f"memory of GPU {memory.gpu} is freed on another")
        self._machine.free(memory)
        return (cudaError_t.cudaSuccess,)

    def _upload(self, stream: Stream, dst: int, src: int, count: int) -> None:
        machine = self._machine
        source, place = self._pinned(src, count, "a copy to the GPU")
        queued = source.content[place].copy()
        machine.events.append(f"upload {count}")

        def run() -> None:
            memory, now = self._pinned(src, count, "a copy to the GPU")
            if not np.array_equal(memory.content[now], queued):
                machine.fault("page-locked memory was rewritten before its copy to the GPU ran")
            machine.write(dst, queued, "a copy to the GPU")

        stream.add(Call(run))

    def _download(self, stream: Stream, dst: int, src: int, count: int) -> None:
        machine = self._machine
        target, place = self._pinned(dst, count, "a copy to the host")
        target.content[place] = POISON  # what a host that does not wait reads
        machine.events.append(f"download {count}")

        def run() -> None:
            memory, now = self._pinned(dst, count, "a copy to the host")
            memory.content[now] = machine.read(src, count, "a copy to the host")

        stream.add(Call(run))

    def _pinned(self, address: int, nbytes: int, doing: str) -> tuple[Memory, slice]:
        memory, place = self._machine.at(address, nbytes, doing)
        if memory.gpu is not None:
            self._machine.fault(f"{doing} takes GPU memory for the host's")
        return memory, place
