"""Which engines are on a GPU: shared by the whole process, the least recently used make room.

All sessions on one GPU have one stream, one block of activation memory and one lock: a GPU runs one
engine at a time anyway, and two sessions of the same engine hold its weights once.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..components import Contract
from ..engine_key import Flavour
from ..engine_record import StoredEngine
from ..errors import DeviceOutOfMemory, SessionError
from .activation_memory import ActivationMemory
from .base import Array, Feed
from .cuda_device import CudaDevice, out_of_memory
from .device_times import OnDeviceTime
from .loaded_engine import LoadedEngine
from .tensorrt_library import TensorRt

Made = TypeVar("Made")
Key = tuple[Path, str]
Read = Callable[[StoredEngine], memoryview]

_registry: dict[tuple[Flavour, int], "EngineResidency"] = {}
_registry_lock = threading.RLock()


class EngineResidency:
    """The engines loaded on one GPU. Thread-safe; get the process's one with `joined`."""

    def __init__(self, flavour: Flavour, index: int) -> None:
        self._place = (flavour, index)
        self._lock = threading.RLock()  # a signal's handler may close while its thread runs
        self._device = CudaDevice(index)
        try:
            self._library = TensorRt(flavour, self._device.gpu)
        except BaseException:
            self._device.close()
            raise
        self._activations = ActivationMemory(self._device)
        self._loaded: OrderedDict[Key, LoadedEngine] = OrderedDict()
        self._used_by: dict[object, set[Key]] = {}
        self._runner: int | None = None
        self._leaving: list[object] = []

    @classmethod
    def joined(cls, flavour: Flavour, index: int, owner: object) -> "EngineResidency":
        """The residency of a GPU, made if `owner` is its first; every owner must `leave` it."""
        with _registry_lock:
            place = (flavour, index)
            if place not in _registry:
                _registry[place] = cls(flavour, index)
            _registry[place]._used_by[owner] = set()
            return _registry[place]

    def has(self, stored: StoredEngine) -> bool:
        """Whether an engine is loaded."""
        return _key(stored) in self._loaded

    def run(
        self,
        owner: object,
        stored: StoredEngine,
        contract: Contract,
        read: Read,
        feed: Feed,
        budget: int | None,
        on_time: OnDeviceTime | None = None,
    ) -> dict[str, Array]:
        """Run an engine, loading it first if need be.

        read: the engine's plan, checked. budget: bytes of GPU memory that all engines here may take
        together; None is what the GPU has. Others are evicted to keep it, and where memory lacks.
        on_time: called with the run's time on the GPU.
        Raises what loading and running raise; DeviceOutOfMemory if the engine does not fit alone.
        """
        try:
            with self._lock:
                if owner not in self._used_by:
                    raise SessionError("this session is closed; open a new Inpainter")
                self._runner = threading.get_ident()
                try:
                    return self._run(owner, stored, contract, read, feed, budget, on_time)
                finally:
                    self._runner = None
        finally:
            while self._leaving:
                self.leave(self._leaving.pop())

    def leave(self, owner: object) -> None:
        """Free what only `owner` used; with the last owner, everything. Waits for a run."""
        if self._runner == threading.get_ident():  # a signal's handler of the thread that runs
            self._leaving.append(owner)
            return
        with _registry_lock, self._lock:
            mine = self._used_by.pop(owner, None)
            if mine is None:
                return
            self._device.activate()
            for key in mine.difference(*self._used_by.values()):
                self._evict(key)
            if not self._used_by:
                _registry.pop(self._place, None)
                self._activations.close()
                self._device.close()

    def _run(
        self,
        owner: object,
        stored: StoredEngine,
        contract: Contract,
        read: Read,
        feed: Feed,
        budget: int | None,
        on_time: OnDeviceTime | None,
    ) -> dict[str, Array]:
        self._device.activate()
        key = _key(stored)
        self._used_by[owner].add(key)
        if key not in self._loaded:
            self._load(stored, read(stored), contract, budget)
        self._loaded.move_to_end(key)
        engine = self._loaded[key]
        self._make_room(0, engine.activation_bytes, budget, engine.component, keep=key)
        workspace = self._evicting(
            lambda: self._activations.at_least(engine.activation_bytes), keep=key
        )
        return engine.run(feed, workspace, on_time)

    def _load(
        self, stored: StoredEngine, plan: memoryview, contract: Contract, budget: int | None
    ) -> None:
        record = stored.record
        activations = record.activation_bytes if record else 0
        component = record.key.component if record else stored.plan.stem
        self._make_room(plan.nbytes, activations, budget, component)
        self._loaded[_key(stored)] = self._evicting(
            lambda: LoadedEngine(self._device, self._library, stored, plan, contract)
        )

    def _make_room(
        self, more: int, activations: int, budget: int | None, purpose: str, keep: Key | None = None
    ) -> None:
        """Evict until what is loaded, `more` bytes and the largest activations keep the budget."""
        if budget is None:
            return
        while (wanted := self._taken_with(more, activations)) > budget:
            if not self._evict_one(keep):
                raise out_of_memory(self._device.gpu, f"{purpose} within the budget", wanted)

    def _taken_with(self, more: int, activations: int) -> int:
        engines = self._loaded.values()
        largest = max([activations, *(engine.activation_bytes for engine in engines)])
        return more + largest + sum(engine.nbytes for engine in engines)

    def _evicting(self, attempt: Callable[[], Made], keep: Key | None = None) -> Made:
        """`attempt`, made again after each eviction for as long as it lacks memory."""
        while True:
            try:
                return attempt()
            except DeviceOutOfMemory:
                if not self._evict_one(keep):
                    raise

    def _evict_one(self, keep: Key | None) -> bool:
        """Free the least recently used engine but `keep`; False if there is none."""
        for key in self._loaded:
            if key != keep:
                self._evict(key)
                return True
        return False

    def _evict(self, key: Key) -> None:
        engine = self._loaded.pop(key, None)
        if engine is not None:
            engine.close()
            left = [engine.activation_bytes for engine in self._loaded.values()]
            self._activations.shrink_to(max(left, default=0))


def _key(stored: StoredEngine) -> Key:
    """A plan's path, and its content's SHA-256: an engine that was built again is another."""
    return stored.plan, stored.record.sha256 if stored.record else ""
