"""Putting the simulation where `import tensorrt`, `tensorrt_rtx` and `cuda.bindings.runtime` look.

Every public name that is read or set on these modules and their objects is recorded as
(type, name) in `Machine.touched`, which the API-surface test compares with the real modules'.
"""

import sys
import types
from typing import Any

import pytest

from .cuda import Cuda
from .machine import Machine
from .tensorrt import RTX_VERSION, VERSION, TensorRtNames

CUDA = "cuda.bindings.runtime"
"""Type under which the runtime's names are recorded."""


class SimulatedModule(types.ModuleType):
    """A module whose names are another object's attributes."""

    def __init__(self, name: str, names: object, machine: Machine, kind: str) -> None:
        super().__init__(name)
        self.__dict__["_names"] = names
        self.__dict__["_machine"] = machine
        self.__dict__["_kind"] = kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.__dict__["_names"], name)
        self.__dict__["_machine"].touched.add((self.__dict__["_kind"], name))
        return value


def install(
    patch: pytest.MonkeyPatch,
    machine: Machine,
    *,
    flavours: tuple[str, ...] = ("rtx", "tensorrt"),
    rtx_version: str | None = RTX_VERSION,
) -> Machine:
    """Let this process see the simulated machine; a flavour left out is not installed."""
    for package in ("cuda", "cuda.bindings"):
        if package not in sys.modules:
            patch.setitem(sys.modules, package, types.ModuleType(package))
    patch.setitem(sys.modules, CUDA, SimulatedModule(CUDA, Cuda(machine), machine, CUDA))
    for flavour, name, version in (
        ("tensorrt", "tensorrt", VERSION),
        ("rtx", "tensorrt_rtx", rtx_version),
    ):
        module: types.ModuleType | None = None  # importing it raises
        if flavour in flavours:
            names = TensorRtNames(machine, rtx=flavour == "rtx")
            module = SimulatedModule(name, names, machine, name)
            module.__dict__["__version__"] = version
        patch.setitem(sys.modules, name, module)
    return machine
