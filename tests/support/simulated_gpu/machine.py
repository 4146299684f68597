"""What the simulated machine has: GPUs, their memory, page-locked host memory, streams."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

POISON = 0xFF
"""Fills memory nobody wrote: NaN in every floating type."""
_ALIGNMENT = 256
_FIRST_ADDRESS = 0x700000000000


class SimulatedFault(Exception):
    """Something a real GPU would have answered with garbage, a crash, or silence."""


@dataclass
class Memory:
    """An allocation. `written` marks its bytes; freed addresses are never given out again."""

    address: int
    content: NDArray[np.uint8]
    gpu: int | None  # None: page-locked host memory
    purpose: str
    freed: bool = False
    written: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.content[:] = POISON
        self.written = np.zeros(len(self.content), np.bool_)

    @property
    def where(self) -> str:
        return "host" if self.gpu is None else "GPU"


class Operation(Protocol):
    """Something queued on a stream or captured in a graph."""

    def run(self) -> None: ...


@dataclass
class Stream:
    """A queue that runs when somebody waits for it, and not before."""

    handle: int
    gpu: int
    queue: list[Operation] = field(default_factory=list)
    captured: list[Operation] | None = None
    capture_broken: bool = False

    def add(self, operation: Operation) -> None:
        (self.queue if self.captured is None else self.captured).append(operation)


class Machine:
    """One process's view of simulated GPUs, all of one kind."""

    def __init__(
        self,
        *,
        name: str = "Simulated L4",
        capability: tuple[int, int] = (8, 9),
        gpus: int = 1,
        capacity: int = 1 << 30,
        pinned_capacity: int = 1 << 30,
    ) -> None:
        self.name = name
        self.capability = capability
        self.gpus = gpus
        self.capacity = capacity
        self.pinned_capacity = pinned_capacity
        self.memory: list[Memory] = []
        self.streams: dict[int, Stream] = {}
        self.graphs = 0
        self.timers = 0  # CUDA's events
        self.faults: list[str] = []
        self.events: list[str] = []
        self.touched: set[tuple[str, str]] = set()
        self.pending_error: Any = None
        self.failing: str | None = None  # the component whose executions are refused
        self.failure = "simulated failure"
        self.diagnosis = 0  # what TensorRT-RTX says of a plan's header
        self._next_address = _FIRST_ADDRESS
        self._thread = threading.local()

    @property
    def current_gpu(self) -> int:
        """The calling thread's; 0 unless it chose."""
        return int(getattr(self._thread, "gpu", 0))

    @current_gpu.setter
    def current_gpu(self, index: int) -> None:
        self._thread.gpu = index

    def fault(self, text: str) -> NoReturn:
        """Record and raise."""
        self.faults.append(text)
        for stream in self.streams.values():
            stream.queue.clear()
        raise SimulatedFault(text)

    def used(self, gpu: int | None = 0) -> int:
        """Bytes allocated on a GPU, or (None) page-locked."""
        return sum(len(m.content) for m in self.memory if m.gpu == gpu and not m.freed)

    def live(self) -> list[str]:
        """Everything that was never freed."""
        left = [f"{m.where} memory for {m.purpose}" for m in self.memory if not m.freed]
        left += [f"stream {handle}" for handle in self.streams]
        return left + ["a graph"] * self.graphs + ["an event"] * self.timers

    def allocate(self, nbytes: int, gpu: int | None, purpose: str) -> Memory | None:
        """Memory full of poison, or None where there is not enough."""
        room = self.pinned_capacity if gpu is None else self.capacity
        if self.used(gpu) + nbytes > room:
            return None
        content = np.empty(nbytes, np.uint8)
        address = int(content.ctypes.data) if gpu is None else self._next_address
        if gpu is not None:
            self._next_address += -(-nbytes // _ALIGNMENT) * _ALIGNMENT + _ALIGNMENT
        memory = Memory(address, content, gpu, purpose)
        self.memory.append(memory)
        return memory

    def free(self, memory: Memory) -> None:
        """Poison it; freed page-locked memory stays mapped, so that its users read the poison."""
        memory.freed = True
        memory.content[:] = POISON
        memory.written[:] = False

    def at(self, address: int, nbytes: int, doing: str) -> tuple[Memory, slice]:  # noqa: RET503
        """The allocation that holds these bytes; a fault unless it is there, whole and alive."""
        for memory in reversed(self.memory):
            start = address - memory.address
            if 0 <= start < max(len(memory.content), 1):
                if memory.freed:
                    self.fault(
                        f"{doing} uses {memory.where} memory ({memory.purpose}) that is freed"
                    )
                if start + nbytes > len(memory.content):
                    self.fault(
                        f"{doing} needs {nbytes} bytes of {memory.purpose}, which has "
                        f"{len(memory.content) - start}"
                    )
                return memory, slice(start, start + nbytes)
        self.fault(f"{doing} uses {address:#x}, where nothing was ever allocated")

    def read(self, address: int, nbytes: int, doing: str) -> NDArray[np.uint8]:
        """A copy of GPU memory that something wrote."""
        memory, place = self.at(address, nbytes, doing)
        if not memory.written[place].all():
            self.fault(f"{doing} reads {memory.purpose} before all of it was written")
        return memory.content[place].copy()

    def write(self, address: int, content: NDArray[np.uint8], doing: str) -> None:
        """Into GPU memory."""
        memory, place = self.at(address, len(content), doing)
        memory.content[place] = content
        memory.written[place] = True

    def stream(self, handle: int, doing: str) -> Stream:
        """The stream with this handle, which must be of the thread's current GPU."""
        if handle not in self.streams:
            self.fault(f"{doing} uses stream {handle}, which does not exist")
        stream = self.streams[handle]
        if stream.gpu != self.current_gpu:
            self.fault(f"{doing}: the stream is of GPU {stream.gpu}, current is {self.current_gpu}")
        return stream

    def run(self, stream: Stream) -> None:
        """Everything queued on a stream, in order."""
        queue, stream.queue = stream.queue, []
        for operation in queue:
            operation.run()


@dataclass
class Call:
    """An operation made of a function."""

    function: Callable[[], None]

    def run(self) -> None:
        self.function()
