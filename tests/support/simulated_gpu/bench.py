"""A simulated machine with a store of engines, and sessions opened on it."""

import gc
from dataclasses import dataclass, field
from typing import Any

from lightfill.engine.bundle import Bundle
from lightfill.engine.engine_key import Flavour, sizes_for
from lightfill.engine.engine_store import EngineStore, Runtime, StoredEngine
from lightfill.engine.sessions import Session, SessionOptions, engine_residency, open_session

from .machine import Machine
from .plans import add_engine
from .tensorrt import RTX_VERSION, VERSION


@dataclass
class Bench:
    """A simulated machine, a store of engines for it, and sessions on them."""

    machine: Machine
    store: EngineStore
    flavour: Flavour
    sessions: list[Session] = field(default_factory=list)

    @property
    def bundle(self) -> Bundle:
        return self.store.bundle

    @property
    def runtime(self) -> Runtime:
        version = RTX_VERSION if self.flavour == "rtx" else VERSION
        major, minor = self.machine.capability
        return Runtime(self.flavour, version, f"sm{major}{minor}", self.machine.name)

    def build(self, component: str, side: int = 64, batch: int = 1, **changes: Any) -> StoredEngine:
        """An engine of a component for square pictures."""
        role = self.bundle.component(component).role
        sizes = sizes_for(role, side, side, batch)
        return add_engine(self.store, self.runtime, component, sizes, **changes)

    def open(self, component: str = "unet", **options: Any) -> Session:
        given = SessionOptions(**{"engines": self.store.root, **options})
        session = open_session(self.bundle, component, self.flavour, given)
        self.sessions.append(session)
        return session

    def close(self) -> None:
        """Close every session; whatever is left then was leaked."""
        for session in self.sessions:
            session.close()
        gc.collect()
        if left := self.machine.live():
            raise AssertionError(f"not freed: {left}")

    def abandon(self) -> None:
        """After a fault on purpose: forget the sessions, whose state nobody can vouch for."""
        engine_residency._registry.clear()
        self.sessions.clear()
        self.machine.faults.clear()
        self.machine.memory.clear()
        self.machine.streams.clear()
        self.machine.graphs = 0
        self.machine.timers = 0
