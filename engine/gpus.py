"""Which GPUs there are: the one in this machine, asked of the driver alone, and RTX's targets."""

import ctypes
import sys
from dataclasses import dataclass

from .engine_key import FLAVOURS, installed_version
from .engine_record import Runtime

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""What TensorRT-RTX 1.7 compiles for ahead of time (`ComputeCapability`, in a test)."""

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_COMPUTE_CAPABILITY = (75, 76)  # CUdevice_attribute: major, minor
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """target: compute capability, "sm89". name: as the driver calls it."""

    target: str
    name: str


def local_gpu(index: int = 0) -> Gpu | None:
    """GPU number `index` of this machine; None without a driver or without so many GPUs.

    Only the driver's library is needed, neither CUDA nor TensorRT, and no context is made.
    """
    try:
        cuda = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    device = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), index):
        return None
    name = ctypes.create_string_buffer(_NAME_BYTES)
    if cuda.cuDeviceGetName(name, _NAME_BYTES, device):
        return None
    version = []
    for attribute in _COMPUTE_CAPABILITY:
        value = ctypes.c_int()
        if cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        version.append(value.value)
    return Gpu("sm{}{}".format(*version), name.value.decode(errors="replace"))


def local_gpus() -> list[Gpu]:
    """Every GPU of this machine, in the driver's order."""
    found: list[Gpu] = []
    while gpu := local_gpu(len(found)):
        found.append(gpu)
    return found


def local_runtimes() -> list[Runtime]:
    """What engines this machine can run on each of its GPUs, by what is installed."""
    installed = [(flavour, installed_version(flavour)) for flavour in FLAVOURS]
    return [
        Runtime(flavour, version, gpu.target, gpu.name, device_index=index)
        for index, gpu in enumerate(local_gpus())
        for flavour, version in installed
        if version
    ]
