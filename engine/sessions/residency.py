"""Which components of a bundle are in memory: all that were asked for, or the one that runs."""

import threading
from abc import ABC, abstractmethod
from contextlib import ExitStack

from ..bundle import Bundle
from ..errors import InvalidInput, SessionError
from ..memory import return_freed
from . import ENGINE_DEVICES, open_session, require_device, require_precision
from .base import ARITHMETIC, Array, Feed, Session, SessionOptions, specs_of


class Residency(ABC):
    """A bundle's components on one device, handed out as sessions. Thread-safe."""

    def __init__(self, bundle: Bundle, device: str, options: SessionOptions | None) -> None:
        self._bundle = bundle
        self._device = device
        self._options = options
        self._lock = threading.RLock()  # a signal's handler may close while its thread runs

    @abstractmethod
    def session(self, component: str) -> Session:
        """The session of a component, usable until `close`; raises as `open_session` does."""

    @abstractmethod
    def close(self) -> None:
        """Free every session; what runs afterwards raises SessionError. Closing twice is fine."""

    def _open(self, component: str) -> Session:
        return open_session(self._bundle, component, self._device, self._options)


class AllResident(Residency):
    """Components are loaded when they are asked for and stay until `close`."""

    def __init__(self, bundle: Bundle, device: str, options: SessionOptions | None) -> None:
        super().__init__(bundle, device, options)
        self._sessions: dict[str, Session] = {}
        self._stack: ExitStack | None = ExitStack()

    def session(self, component: str) -> Session:
        with self._lock:
            if self._stack is None:
                raise _closed()
            if component not in self._sessions:
                self._sessions[component] = self._stack.enter_context(self._open(component))
            return self._sessions[component]

    def close(self) -> None:
        with self._lock:
            stack, self._stack = self._stack, None
            self._sessions.clear()
        if stack is not None:
            stack.close()


class OneResident(Residency):
    """A component is loaded when it runs, and stays until another one runs.

    Runs of several threads follow one another, so that no session is closed while it runs; `close`
    waits for the run that is under way. A component that cannot be loaded is an error of its first
    run, though a device that is not here is refused at once.
    """

    def __init__(self, bundle: Bundle, device: str, options: SessionOptions | None) -> None:
        if device in ENGINE_DEVICES:
            raise InvalidInput(
                "low_memory",
                f"{device} holds the engines that fit into GPU memory, and the others wait on "
                "disk; set vram_budget_bytes instead",
            )
        require_device(device)
        super().__init__(bundle, device, options)
        self._resident: Session | None = None
        self._closed = False

    def session(self, component: str) -> Session:
        if self._closed:
            raise _closed()
        options = self._options or SessionOptions()
        require_precision(self._bundle, component, self._device, options)
        return _LoadedToRun(self, self._bundle, component, self._device)

    def run(self, component: str, feed: Feed) -> dict[str, Array]:
        """Run `component`, loading it in place of another if need be.

        Results are copies: ONNX Runtime's arrays are views that keep a closed session's memory.
        """
        with self._lock:
            results = self._in_memory(component).run(feed)
            return {name: array.copy() for name, array in results.items()}

    def close(self) -> None:
        self._closed = True  # before the wait: threads in line for the next run find it so
        with self._lock:
            self._free()

    def _in_memory(self, component: str) -> Session:
        if self._closed:
            raise _closed()
        if self._resident is None or self._resident.component != component:
            self._free()
            self._resident = self._open(component)
        return self._resident

    def _free(self) -> None:
        resident, self._resident = self._resident, None
        if resident is not None:
            resident.close()
            return_freed()


class _LoadedToRun(Session):
    """What `OneResident` hands out: costs nothing until it runs, and may run any number of times.

    Its inputs and outputs are the contract's, so a wrong feed is refused before anything is loaded.
    """

    def __init__(self, owner: OneResident, bundle: Bundle, component: str, device: str) -> None:
        contract, arithmetic = bundle.contract(component), ARITHMETIC[device]
        super().__init__(
            component,
            device,
            inputs=specs_of(contract.inputs, arithmetic),
            outputs=specs_of(contract.outputs, arithmetic),
        )
        self._owner = owner

    def _run(self, feed: Feed) -> dict[str, Array]:
        return self._owner.run(self.component, feed)

    def close(self) -> None:
        """Nothing: the owner frees what is resident."""


def _closed() -> SessionError:
    return SessionError("this Inpainter is closed; open a new one")
