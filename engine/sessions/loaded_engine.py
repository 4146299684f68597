"""One engine on the GPU: its buffers, allocated once, and one run from host arrays to host arrays.

A run copies what changed into page-locked memory and on to the GPU, queues the execution, queues
the copies back, and waits once. The first execution warms the engine up; then it is captured as a
CUDA graph, which later runs replay with one call.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..components import Contract
from ..engine_record import StoredEngine
from ..errors import ContractViolation, DeviceOutOfMemory, SessionError
from .base import Array, Feed, check_contract
from .cuda_device import CudaDevice, DeviceBlock, PinnedBlock
from .tensorrt_library import Execution, TensorRt

if TYPE_CHECKING:
    import tensorrt_rtx as trt

_PEEK = 4096
"""Bytes compared first: inputs that changed mostly differ in them already."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Port:
    """A tensor of the engine: where it is on the GPU, and its page-locked twin."""

    block: DeviceBlock
    staging: PinnedBlock
    array: Array
    """The twin in the tensor's dtype and shape."""

    def holds(self, array: Array) -> bool:
        """Whether the twin has the same bytes; the array's identity would not tell."""
        given = array.reshape(-1).view(np.uint8)
        held = self.staging.bytes
        return np.array_equal(given[:_PEEK], held[:_PEEK]) and np.array_equal(
            _words(given), _words(held)
        )


class LoadedEngine:
    """An engine with its buffers. Not thread-safe: its owner lets one thread at a time use it.

    Raises EngineStale, DeviceOutOfMemory or SessionError, and then leaves nothing allocated.
    """

    def __init__(
        self,
        device: CudaDevice,
        library: TensorRt,
        stored: StoredEngine,
        plan: memoryview,
        contract: Contract,
    ) -> None:
        if stored.record is None:
            raise SessionError(f"{stored.plan} has no record; build it with `lightfill build`")
        self.component = stored.record.key.component
        self._device = device
        self._library = library
        self._inputs: dict[str, _Port] = {}
        self._outputs: dict[str, _Port] = {}
        self._uploaded: set[str] = set()
        self._workspace: DeviceBlock | None = None
        self._graph: Any = None
        self._kept = self._capturable = False
        self._engine: trt.ICudaEngine | None = library.deserialised(plan, self.component)
        self._execution: Execution | None = None
        try:
            self._weights = plan.nbytes
            self.activation_bytes = int(self._engine.device_memory_size_v2)
            # No frame below holds engine or context: an error's traceback would keep their memory.
            self._execution = library.execution(self._engine, stored.record.sha256)
            self._bind(contract)
        except BaseException:
            self.close()
            raise

    @property
    def nbytes(self) -> int:
        """GPU memory beside activations: tensors, and weights, which a plan mostly is."""
        ports = (*self._inputs.values(), *self._outputs.values())
        return self._weights + sum(port.block.nbytes for port in ports)

    def run(self, feed: Feed, workspace: DeviceBlock) -> dict[str, Array]:
        """Run once, computing in `workspace`; results are copies, and what was fed is left alone.

        Raises ContractViolation, DeviceOutOfMemory or SessionError; another run may follow.
        """
        arrays = {name: self._fitting(name, port, feed) for name, port in self._inputs.items()}
        try:
            self._use(workspace)
            for name, port in self._inputs.items():
                self._upload(name, port, arrays[name])
            self._execute()
            for port in self._outputs.values():
                self._device.download(port.staging, port.block)
            self._device.synchronise()
        except BaseException:
            self._uploaded.clear()  # which copies ran is not known
            with suppress(SessionError):
                self._device.synchronise()  # nothing queued may read what the next run writes
            raise
        results = {name: port.array.copy() for name, port in self._outputs.items()}
        if not self._kept:
            self._keep_what_warmed_up()
        return results

    def close(self) -> None:
        """Free everything it holds; nothing queued may still use it. Closing twice is fine."""
        self._drop_graph()
        self._execution = None  # the context before its engine
        self._engine = None
        ports = [*self._inputs.values(), *self._outputs.values()]
        self._inputs, self._outputs = {}, {}
        for port in ports:
            self._device.free(port.block)
            self._device.free(port.staging)

    def _bind(self, contract: Contract) -> None:
        """Allocate every tensor and tell the context its shape and address."""
        if self._engine is None or self._execution is None:
            raise self._library.failure("preparing", self.component, self.activation_bytes)
        inputs, outputs = self._library.inputs_and_outputs(self._engine)
        check_contract(self.component, contract, inputs, outputs)
        for ports, tensors in ((self._inputs, inputs), (self._outputs, outputs)):
            for name, spec in tensors.items():
                shape = tuple(int(size) for size in spec.shape)
                ports[name] = port = self._allocated(name, spec.dtype, shape)
                if ports is self._inputs and not self._context.set_input_shape(name, shape):
                    raise self._library.failure("running", self.component)
                if not self._context.set_tensor_address(name, port.block.address):
                    raise self._library.failure("running", self.component)
        self._capturable = not self._execution.captures_itself

    def _allocated(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> _Port:
        nbytes = prod(shape) * dtype.itemsize
        purpose = f"{name!r} of {self.component}"
        block = self._device.allocate(nbytes, purpose)
        try:
            staging = self._device.allocate_pinned(nbytes, purpose)
        except DeviceOutOfMemory:
            self._device.free(block)
            raise
        return _Port(block, staging, staging.bytes.view(dtype).reshape(shape))

    def _fitting(self, name: str, port: _Port, feed: Feed) -> Array:
        """An input as one run of bytes, of exactly the engine's shape and dtype."""
        array = np.ascontiguousarray(feed[name])
        if (array.dtype, array.shape) != (port.array.dtype, port.array.shape):
            raise ContractViolation(
                f"{self.component} input {name!r} is {port.array.dtype} {port.array.shape} in "
                f"this engine, was given {array.dtype} {array.shape}; build the engines again "
                "from this bundle with `lightfill build`"
            )
        return array

    def _use(self, workspace: DeviceBlock) -> None:
        """Compute in this block from now on; a graph remembers the old one and is dropped."""
        if workspace is not self._workspace:
            self._drop_graph()
            self._context.set_device_memory(workspace.address, workspace.nbytes)
            self._workspace = workspace

    def _upload(self, name: str, port: _Port, array: Array) -> None:
        if name in self._uploaded and port.holds(array):
            return
        self._uploaded.discard(name)
        np.copyto(port.array, array)
        self._device.upload(port.block, port.staging)
        self._uploaded.add(name)

    def _execute(self) -> None:
        if self._graph is not None:
            self._device.replay(self._graph)
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            raise self._library.failure("running", self.component)

    def _keep_what_warmed_up(self) -> None:
        """After an execution that was not a replay: its graph, and what TensorRT-RTX compiled."""
        self._kept = True
        if self._execution and self._execution.cache:
            self._execution.cache.save()
        if not self._capturable:
            return
        try:
            self._graph = self._device.capture(self._enqueue)
        except SessionError as error:
            self._capturable = False
            logger.warning(
                "%s runs without a CUDA graph, which is slower: %s", self.component, error
            )

    def _drop_graph(self) -> None:
        graph, self._graph, self._kept = self._graph, None, False
        if graph is not None:
            self._device.discard(graph)

    @property
    def _context(self) -> "trt.IExecutionContext":
        if self._execution is None:
            raise SessionError(f"{self.component} is closed; open a new Inpainter")
        return self._execution.context


def _words(content: Array) -> Array:
    """The same bytes in eights where they divide so: compared in an eighth of the steps."""
    return content.view(np.uint64) if content.nbytes % 8 == 0 else content
