"""TensorRT sessions, device "tensorrt" and "rtx": engines built per size, chosen by what is fed.

A session opens at once and loads nothing: each size a component is run at has an engine of its own,
which is loaded when it is first run and shared with every session of this process.
"""

from collections.abc import Mapping
from pathlib import Path

from ..bundle import Bundle
from ..engine_key import Flavour
from ..engine_store import EngineStore, StoredEngine
from ..errors import EngineNotBuilt, EngineStale, SessionError
from .base import ARITHMETIC, Array, Feed, Session, SessionOptions, sizes_of, specs_of
from .engine_residency import EngineResidency
from .missing_engines import build_missing
from .tensorrt_library import runtime_here


class TensorRtSession(Session):
    """One component's engines; `run` may be called from several threads.

    Raises EngineNotBuilt, EngineStale or EngineCorrupt before the GPU sees anything, and
    DeviceOutOfMemory, after which it stays usable.
    """

    def __init__(
        self, bundle: Bundle, component: str, flavour: Flavour, options: SessionOptions
    ) -> None:
        self._contract = bundle.contract(component)
        arithmetic = ARITHMETIC[flavour]
        bundle.graph(component, arithmetic)  # what its engines are built from
        super().__init__(
            component,
            flavour,
            inputs=specs_of(self._contract.inputs, arithmetic),
            outputs=specs_of(self._contract.outputs, arithmetic),
        )
        self._runtime = runtime_here(flavour, options.device_index)
        self._options = options
        engines = None if options.engines is None else Path(options.engines)
        self._store = EngineStore.of(bundle, engines)
        self._chosen: dict[tuple[tuple[str, int], ...], StoredEngine] = {}
        self._residency: EngineResidency | None = EngineResidency.joined(
            flavour, options.device_index, self
        )

    def require(self, sizes: Mapping[str, int]) -> None:
        self._stored(self._open_residency(), sizes)

    def _run(self, feed: Feed) -> dict[str, Array]:
        residency = self._open_residency()
        stored = self._stored(residency, sizes_of(self._contract.inputs, feed))
        return residency.run(
            self, stored, self._contract, self._store.read, feed,
            self._options.vram_budget_bytes, self._options.on_device_time,
        )  # fmt: skip

    def close(self) -> None:
        residency, self._residency = self._residency, None
        if residency is not None:
            residency.leave(self)

    def _open_residency(self) -> EngineResidency:
        if self._residency is None:
            raise SessionError(f"{self.component} is closed; open a new Inpainter")
        return self._residency

    def _stored(self, residency: EngineResidency, sizes: Mapping[str, int]) -> StoredEngine:
        """The engine for these sizes; one that is not loaded is looked for on disk each time."""
        place = tuple(sorted(sizes.items()))
        stored = self._chosen.get(place)
        if stored is None or not residency.has(stored):
            stored = self._chosen[place] = self._serving(sizes)
        return stored

    def _serving(self, sizes: Mapping[str, int]) -> StoredEngine:
        """The engine for these sizes, built now if it is not there and that was asked for."""
        try:
            return self._store.serving(self.component, sizes, self._runtime)
        except (EngineNotBuilt, EngineStale):
            if not self._options.build_missing:
                raise
        build_missing(self._store, self.component, sizes, self._runtime)
        return self._store.serving(self.component, sizes, self._runtime)
