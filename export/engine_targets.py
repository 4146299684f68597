"""Which TensorRT builds, for which GPUs: what was asked for, if this machine can do it."""

import re
from collections.abc import Sequence
from importlib.util import find_spec

from ..engine.engine_key import FLAVOURS, Flavour, installed_version
from ..engine.errors import DeviceUnavailable, InvalidInput
from ..engine.gpus import RTX_TARGETS, Gpu, local_gpu

_TARGET = re.compile(r"sm\d{2,3}")
TOOLS = ("filelock", "onnx", "polygraphy")
_INSTALL = {
    "rtx": "TensorRT-RTX is not installed; `pip install 'lightfill[build,rtx]'` (it builds without "
    "a GPU)",
    "tensorrt": "TensorRT is not installed; on the machine whose NVIDIA GPU will run the engines, "
    "`pip install 'lightfill[build,tensorrt]'` (RTX GPUs: --device rtx builds without one)",
}


def chosen_flavour(device: str | None) -> tuple[Flavour, str]:
    """The TensorRT of `device`, or the only one installed, and its exact version.

    Raises InvalidInput for another device or none where both are installed, DeviceUnavailable
    where it is not.
    """
    installed = {flavour: installed_version(flavour) for flavour in FLAVOURS}
    if device is None:
        found = [flavour for flavour in FLAVOURS if installed[flavour]]
        if not found:
            raise DeviceUnavailable(f"{_INSTALL['rtx']}, or {_INSTALL['tensorrt']}")
        if len(found) > 1:
            raise InvalidInput("device", "TensorRT and TensorRT-RTX are installed; say which")
        device = found[0]
    for flavour in FLAVOURS:
        if flavour == device:
            if version := installed[flavour]:
                return flavour, version
            raise DeviceUnavailable(_INSTALL[flavour])
    raise InvalidInput(
        "device", f"engines are built for {' or '.join(FLAVOURS)}, not for {device!r}"
    )


def chosen_targets(flavour: Flavour, gpus: str | None, index: int = 0) -> tuple[str, ...]:
    """The GPUs of "sm89,sm120", or this machine's with that index, as keys spell them.

    Raises InvalidInput for what the flavour cannot build, DeviceUnavailable where TensorRT has no
    GPU to build on.
    """
    wanted = None if gpus is None else tuple(dict.fromkeys(gpus.replace(" ", "").split(",")))
    for target in wanted or ():
        if not _TARGET.fullmatch(target):
            raise InvalidInput("gpu", f"{target!r} is no compute capability; write it as sm89")
    gpu = local_gpu(index)
    if gpu is None and index:
        raise InvalidInput("device_index", f"this machine has no GPU {index}; leave it out")
    return _rtx_targets(wanted, gpu) if flavour == "rtx" else _tensorrt_target(wanted, gpu)


def require_tools(doing: str = "building engines", tools: Sequence[str] = TOOLS) -> None:
    """Raise DeviceUnavailable unless what that takes, TensorRT itself apart, is installed."""
    missing = [tool for tool in tools if find_spec(tool) is None]
    if missing:
        raise DeviceUnavailable(
            f"{doing} needs {', '.join(missing)}; `pip install 'lightfill[build]'`"
        )


def _rtx_targets(wanted: tuple[str, ...] | None, gpu: Gpu | None) -> tuple[str, ...]:
    targets = ", ".join(RTX_TARGETS)
    if wanted is None:
        if gpu is None:
            raise InvalidInput(
                "gpu", f"there is none here; name those to build for, of {targets}: --gpu sm89"
            )
        wanted = (gpu.target,)
    for target in wanted:
        if target not in RTX_TARGETS:
            raise InvalidInput(
                "gpu",
                f"TensorRT-RTX does not build for {target} (it does for {targets}); use "
                "--device tensorrt on a machine with that GPU",
            )
    return wanted


def _tensorrt_target(wanted: tuple[str, ...] | None, gpu: Gpu | None) -> tuple[str, ...]:
    if gpu is None:
        raise DeviceUnavailable(
            "TensorRT builds on the GPU that will run the engines, and no NVIDIA driver or GPU is "
            "here (`nvidia-smi`); build on that machine, or for RTX GPUs without one: --device rtx "
            "--gpu sm89"
        )
    if wanted not in {None, (gpu.target,)}:
        raise InvalidInput(
            "gpu",
            f"TensorRT builds for the GPU it runs on, here {gpu.target} ({gpu.name}); leave --gpu "
            "out, or build on the other machine",
        )
    return (f"{gpu.target} {gpu.name}",)
