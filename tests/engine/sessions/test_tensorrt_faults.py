"""Mistakes planted in the session, one at a time: each must make the same sound test fail.

The scenario does what a pipeline does: the same text states for several steps, latents rewritten in
the same array, engines of two sizes whose activations differ, a second GPU used from a second
thread, memory that lacks once, and everything closed in the end.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simulated_gpu import Bench, SimulatedFault, feed_of
from simulated_gpu.tensorrt import ExecutionContextAllocationStrategy

from lightfill.engine.errors import LightfillError
from lightfill.engine.sessions.activation_memory import ActivationMemory
from lightfill.engine.sessions.base import Feed
from lightfill.engine.sessions.cuda_device import CudaDevice, DeviceBlock, PinnedBlock
from lightfill.engine.sessions.engine_residency import EngineResidency
from lightfill.engine.sessions.loaded_engine import LoadedEngine, _Port
from lightfill.engine.sessions.tensorrt_library import TensorRt

Reference = Callable[[str, Feed], dict[str, np.ndarray]]
Patch = pytest.MonkeyPatch


class Found(Exception):
    """The scenario noticed something wrong."""


def scenario(bench: Bench, reference: Reference) -> None:
    """Raises unless every result of every run equals the graph's, and nothing is left over."""
    bench.machine.gpus = 2
    bench.build("unet", 64, activations=1000)
    bench.build("unet", 96, activations=9000)
    bench.build("vae_decoder", 64, activations=500)
    unet, decoder = bench.open("unet"), bench.open("vae_decoder")
    wanted: list[tuple[np.ndarray, np.ndarray]] = []

    def check(session: Any, feed: dict[str, np.ndarray]) -> None:
        expected = reference(session.component, feed)
        wanted.extend((array, expected[name]) for name, array in session.run(feed).items())

    small = feed_of("unet", 64)
    for step in range(3):
        small["sample"] += np.float16(step)  # in place
        check(unet, small)
    check(decoder, feed_of("vae_decoder"))
    check(unet, feed_of("unet", 96))
    check(unet, small)
    for name in ("encoder_hidden_states", "text_embeds"):
        small[name][0, -1] += 1
        check(unet, small)

    bench.machine.failing = "unet"
    small["text_embeds"][0, -1] += 1
    try:
        unet.run(small)
    except LightfillError:
        bench.machine.failing = None
    else:
        raise Found("an execution that failed passed")
    check(unet, small)

    elsewhere = bench.open("unet", device_index=1)
    errors: list[BaseException] = []
    thread = threading.Thread(target=_keeping_errors(lambda: check(elsewhere, small), errors))
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    for actual, expected in wanted:
        if not np.array_equal(actual, expected):
            raise Found("a result is not the graph's")
    try:
        bench.close()
    except AssertionError as leak:
        raise Found(str(leak)) from leak


def _keeping_errors(call: Callable[[], None], errors: list[BaseException]) -> Callable[[], None]:
    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            errors.append(error)

    return run


def test_the_sound_session_passes(bench: Bench, reference: Reference) -> None:
    scenario(bench, reference)


def executed_before_uploads(patch: Patch) -> None:
    """Wrong order on the stream."""
    late: list[tuple[Any, ...]] = []
    upload, execute = CudaDevice.upload, LoadedEngine._execute
    patch.setattr(CudaDevice, "upload", lambda *arguments: late.append(arguments))

    def execute_then_upload(self: LoadedEngine) -> None:
        execute(self)
        while late:
            upload(*late.pop(0))

    patch.setattr(LoadedEngine, "_execute", execute_then_upload)


def downloaded_before_execution(patch: Patch) -> None:
    """Results copied back before there are any: from the second run on, the last run's."""
    execute, download = LoadedEngine._execute, CudaDevice.download
    held: list[LoadedEngine] = []
    patch.setattr(LoadedEngine, "_execute", lambda self: held.append(self))  # noqa: PLW0108

    def download_then_execute(self: CudaDevice, *blocks: Any) -> None:
        download(self, *blocks)
        execute(held[-1])

    patch.setattr(CudaDevice, "download", download_then_execute)


def copied_on_another_stream(patch: Patch) -> None:
    """Two streams without an event between them."""
    upload = CudaDevice.upload

    def elsewhere(self: CudaDevice, *blocks: Any) -> None:
        own = self._stream
        try:
            self._stream = self._runtime.cudaStreamCreateWithFlags(1)[1]
            upload(self, *blocks)
        finally:
            self._stream = own

    patch.setattr(CudaDevice, "upload", elsewhere)


def buffer_freed_early(patch: Patch) -> None:
    """A tensor's memory given back while the engine has its address."""
    allocated = LoadedEngine._allocated

    def freed(self: LoadedEngine, name: str, *rest: Any) -> _Port:
        port = allocated(self, name, *rest)
        if name == "sample":
            self._device._runtime.cudaFree(port.block.address)
        return port

    patch.setattr(LoadedEngine, "_allocated", freed)


def pinned_freed_early(patch: Patch) -> None:
    """Page-locked memory given back while copies use it."""
    allocated = LoadedEngine._allocated

    def freed(self: LoadedEngine, name: str, *rest: Any) -> _Port:
        port = allocated(self, name, *rest)
        self._device._runtime.cudaFreeHost(port.staging.address)
        return port

    patch.setattr(LoadedEngine, "_allocated", freed)


def stale_activations(patch: Patch) -> None:
    """A context that is not told that the shared block has moved."""
    use = LoadedEngine._use

    def once(self: LoadedEngine, workspace: DeviceBlock) -> None:
        if self._workspace is None:
            use(self, workspace)

    patch.setattr(LoadedEngine, "_use", once)


def stale_graph(patch: Patch) -> None:
    """A graph replayed that remembers the old block's address."""
    drop = LoadedEngine._drop_graph

    def only_at_the_end(self: LoadedEngine) -> None:
        if self._workspace is None or self._closing:
            drop(self)

    def close(self: LoadedEngine) -> None:
        self._closing = True
        closed(self)

    closed = LoadedEngine.close
    patch.setattr(LoadedEngine, "_closing", False, raising=False)
    patch.setattr(LoadedEngine, "close", close)
    patch.setattr(LoadedEngine, "_drop_graph", only_at_the_end)


def short_upload(patch: Patch) -> None:
    """The last element is not copied to the GPU."""
    patch.setattr(CudaDevice, "upload", _short("cudaMemcpyHostToDevice"))


def short_upload_later(patch: Patch) -> None:
    """The last element is not copied again: the GPU keeps the last step's."""
    whole, short = CudaDevice.upload, _short("cudaMemcpyHostToDevice")
    seen: set[int] = set()

    def upload(self: CudaDevice, target: DeviceBlock, source: PinnedBlock) -> None:
        (short if target.address in seen else whole)(self, target, source)
        seen.add(target.address)

    patch.setattr(CudaDevice, "upload", upload)


def short_download(patch: Patch) -> None:
    """The last element is not copied back."""
    patch.setattr(CudaDevice, "download", _short("cudaMemcpyDeviceToHost"))


def _short(kind: str) -> Callable[[CudaDevice, Any, Any], None]:
    def copy(self: CudaDevice, target: Any, source: Any) -> None:
        direction = getattr(self._runtime.cudaMemcpyKind, kind)
        arguments = (target.address, source.address, source.nbytes - 2, direction, self._stream)
        self._runtime.cudaMemcpyAsync(*arguments)

    return copy


def uploads_once(patch: Patch) -> None:
    """An input that changed is taken for the old one."""
    patch.setattr(_Port, "holds", lambda self, array: True)


def uploads_by_identity(patch: Patch) -> None:
    """The same array is taken for the same content."""
    last: dict[int, int] = {}

    def holds(self: _Port, array: np.ndarray) -> bool:
        same = last.get(id(self)) == array.ctypes.data
        last[id(self)] = array.ctypes.data
        return same

    patch.setattr(_Port, "holds", holds)


def compares_the_beginning(patch: Patch) -> None:
    """Only the first bytes are compared."""
    patch.setattr(
        _Port,
        "holds",
        lambda self, array: np.array_equal(
            array.reshape(-1).view(np.uint8)[:64], self.staging.bytes[:64]
        ),
    )


def forgets_a_failure(patch: Patch) -> None:
    """After a run that failed, what it had queued counts as uploaded."""
    run = LoadedEngine.run

    def keeping(self: LoadedEngine, feed: Feed, workspace: DeviceBlock, *_: object) -> Any:
        try:
            return run(self, feed, workspace)
        except LightfillError:
            self._uploaded = set(self._inputs)
            for name, port in self._inputs.items():
                np.copyto(port.array, feed[name])
            raise

    synchronise = CudaDevice.synchronise
    patch.setattr(CudaDevice, "synchronise", lambda self: _lost(self) or synchronise(self))
    patch.setattr(LoadedEngine, "run", keeping)


def _lost(device: CudaDevice) -> None:
    """What is queued when a run failed never runs, as after an error of the stream."""
    machine = device._runtime._names._machine
    if getattr(machine, "failing", None):
        for stream in machine.streams.values():
            stream.queue.clear()


def never_waits(patch: Patch) -> None:
    """Results read before the stream was synchronised."""
    patch.setattr(CudaDevice, "synchronise", lambda self: None)


def queued_before_written(patch: Patch) -> None:
    """Page-locked memory written after its copy was queued."""
    upload = CudaDevice.upload

    def copy_then_write(self: LoadedEngine, name: str, port: _Port, array: np.ndarray) -> None:
        upload(self._device, port.block, port.staging)
        np.copyto(port.array, array)

    patch.setattr(LoadedEngine, "_upload", copy_then_write)


def results_are_views(patch: Patch) -> None:
    """Results that the next run overwrites."""
    allocated = LoadedEngine._allocated

    class Uncopied(np.ndarray):
        def copy(self, order: Any = "C") -> np.ndarray:
            return self

    def viewed(self: LoadedEngine, *arguments: Any) -> _Port:
        port = allocated(self, *arguments)
        return _Port(port.block, port.staging, port.array.view(Uncopied))

    patch.setattr(LoadedEngine, "_allocated", viewed)


def half_the_activations(patch: Patch) -> None:
    """A block smaller than the engine needs."""
    at_least = ActivationMemory.at_least
    patch.setattr(ActivationMemory, "at_least", lambda self, nbytes: at_least(self, nbytes // 2))


def activations_not_shared(patch: Patch) -> None:
    """A context that allocates its own activation memory."""
    init = TensorRt.__init__

    class Static:
        USER_MANAGED = ExecutionContextAllocationStrategy.STATIC

    def own(self: TensorRt, *arguments: Any) -> None:
        init(self, *arguments)
        self._module._names.ExecutionContextAllocationStrategy = Static

    patch.setattr(TensorRt, "__init__", own)


def address_not_set(patch: Patch) -> None:
    """A tensor the context was never told the address of."""
    bind = LoadedEngine._bind

    class Deaf:
        def __init__(self, context: Any) -> None:
            self._context = context

        def __getattr__(self, name: str) -> Any:
            return getattr(self._context, name)

        def set_tensor_address(self, name: str, address: int) -> bool:
            return name == "time_ids" or self._context.set_tensor_address(name, address)

    def deaf(self: LoadedEngine, contract: Any) -> None:
        assert self._execution
        self._execution = replace(self._execution, context=Deaf(self._execution.context))
        bind(self, contract)

    patch.setattr(LoadedEngine, "_bind", deaf)


def gpu_not_chosen(patch: Patch) -> None:
    """Another thread's current GPU is GPU 0."""
    activate = CudaDevice.activate
    chosen: set[int] = set()

    def once(self: CudaDevice) -> None:
        if self.index not in chosen:
            chosen.add(self.index)
            activate(self)

    patch.setattr(CudaDevice, "activate", once)


def outputs_not_freed(patch: Patch) -> None:
    """Something is left when everything is closed."""
    close = LoadedEngine.close

    def forget(self: LoadedEngine) -> None:
        self._outputs = {}
        close(self)

    patch.setattr(LoadedEngine, "close", forget)


def stays_when_left(patch: Patch) -> None:
    """The last session's close frees nothing."""
    patch.setattr(EngineResidency, "leave", lambda self, owner: None)


def capture_without_warming_up(patch: Patch) -> None:
    """The first execution is the capture."""

    def capture_first(self: LoadedEngine) -> None:
        if self._graph is None:
            self._graph = self._device.capture(self._enqueue)
        self._device.replay(self._graph)

    patch.setattr(LoadedEngine, "_execute", capture_first)


def captures_what_captures_itself(patch: Patch) -> None:
    """A CUDA graph of ours around TensorRT-RTX's."""
    init = LoadedEngine.__init__

    def capturable(self: LoadedEngine, *arguments: Any) -> None:
        init(self, *arguments)
        self._capturable = True

    patch.setattr(LoadedEngine, "__init__", capturable)


FAULTS: dict[Callable[[Patch], None], str] = {
    executed_before_uploads: r"before all of it was written",
    downloaded_before_execution: r"before all of it was written",
    copied_on_another_stream: r"before all of it was written",
    buffer_freed_early: r"uses GPU memory .* that is freed",
    pinned_freed_early: r"uses host memory .* that is freed",
    stale_activations: r"activations uses GPU memory .* that is freed",
    short_upload: r"before all of it was written",
    short_upload_later: r"a result is not the graph's",
    short_download: r"NaN or infinity in 'prediction'",
    uploads_once: r"a result is not the graph's",
    uploads_by_identity: r"a result is not the graph's",
    compares_the_beginning: r"a result is not the graph's",
    forgets_a_failure: r"a result is not the graph's",
    never_waits: r"NaN or infinity in 'prediction'",
    queued_before_written: r"rewritten before its copy to the GPU ran",
    results_are_views: r"a result is not the graph's",
    half_the_activations: r"500 bytes of activations, the engine needs 1000",
    activations_not_shared: r"the context allocates its own",
    address_not_set: r"unbound .'time_ids'.",
    gpu_not_chosen: r"the stream is of GPU 1, current is 0",
    outputs_not_freed: r"not freed: .*memory",
    stays_when_left: r"not freed: .*stream",
    capture_without_warming_up: r"captured before it was executed once",
}
OF_TENSORRT = {stale_graph: r"activations uses GPU memory .* that is freed"}
OF_RTX = {captures_what_captures_itself: r"a context that captures its own graph is captured"}
CASES = [
    pytest.param(flavour, fault, sign, id=f"{fault.__name__}-{flavour}")
    for flavour, own in (("rtx", OF_RTX), ("tensorrt", OF_TENSORRT))
    for fault, sign in (FAULTS | own).items()
]


@pytest.mark.parametrize(("bench", "fault", "sign"), CASES, indirect=["bench"])
def test_a_planted_fault_is_found(
    bench: Bench, reference: Reference, fault: Callable[[Patch], None], sign: str
) -> None:
    """The scenario fails, and for the reason that was planted."""
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.raises((Found, SimulatedFault, LightfillError), match=sign):
            scenario(bench, reference)
    bench.abandon()
