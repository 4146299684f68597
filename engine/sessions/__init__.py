"""Runtimes behind one small protocol, one module each, imported only when asked for."""

from pathlib import Path
from typing import Literal, get_args

from ..bundle import Bundle
from ..components import Contract
from ..engine_key import Flavour, is_built
from ..errors import DeviceUnavailable
from .base import ARITHMETIC, Session, SessionOptions, TensorSpec

Device = Literal["cpu", "openvino", "cuda", "tensorrt", "rtx", "null"]
DEVICES: tuple[str, ...] = get_args(Device)
ENGINE_DEVICES: dict[str, Flavour] = {"tensorrt": "tensorrt", "rtx": "rtx"}
"""Devices whose components are compiled for each size beforehand."""

__all__ = [
    "DEVICES",
    "ENGINE_DEVICES",
    "Device",
    "Session",
    "SessionOptions",
    "TensorSpec",
    "open_graph",
    "open_session",
    "require_device",
]


def open_session(
    bundle: Bundle,
    component: str,
    device: str = "cpu",
    options: SessionOptions | None = None,
) -> Session:
    """Load one component of a bundle on `device`; what is asked for runs, or an error says why not.

    One kind of component has no engines, the prompt expander, whose sizes vary from call to call:
    on "tensorrt" and "rtx" it runs on the CPU, and its session says so. Raises DeviceUnavailable,
    ComponentMissing, BundleCorrupt or SessionError.
    """
    options = options or SessionOptions()
    require_device(device, options.device_index)
    if device in ENGINE_DEVICES:
        if is_built(bundle.component(component).role):
            from .tensorrt import TensorRtSession

            return TensorRtSession(bundle, component, ENGINE_DEVICES[device], options)
        return open_session(bundle, component, "cpu", options)
    if device == "null":
        from .null import NullSession

        return NullSession(bundle, component)
    path = bundle.graph(component, ARITHMETIC[device])
    contract = bundle.contract(component)
    if device == "openvino":
        from .openvino import OpenVinoSession

        return OpenVinoSession(path, component, contract, options)
    from .onnxruntime import OnnxRuntimeSession

    return OnnxRuntimeSession(path, component, contract, device, options)


def open_graph(
    path: Path, name: str, contract: Contract, options: SessionOptions | None = None
) -> Session:
    """Load an ONNX file that belongs to no bundle on the CPU; errors call it `name`.

    Raises DeviceUnavailable, ContractViolation or SessionError.
    """
    require_device("cpu")
    from .onnxruntime import OnnxRuntimeSession

    return OnnxRuntimeSession(path, name, contract, "cpu", options or SessionOptions())


def require_device(device: str, device_index: int = 0) -> None:
    """Raise DeviceUnavailable unless this machine has what `device` needs; loads no component."""
    if device not in DEVICES:
        raise DeviceUnavailable(
            f"there is no device {device!r}; choose one of {', '.join(DEVICES)} "
            "(`lightfill doctor` shows which of them this machine has)"
        )
    if device == "null":
        return
    if device in ENGINE_DEVICES:
        from .tensorrt_library import runtime_here

        runtime_here(ENGINE_DEVICES[device], device_index)
        return
    _require_library(device)


def _require_library(device: str) -> None:
    """Of the devices that read a graph as it is: raise unless its library is installed and runs."""
    library = "OpenVINO" if device == "openvino" else "ONNX Runtime"
    try:
        if device == "openvino":
            from .openvino import require_processor

            require_processor()
        else:
            from .onnxruntime import require_provider

            require_provider(device)
    except ImportError as error:
        raise DeviceUnavailable(
            f"{library} is not installed ({error}); `pip install 'lightfill[{device}]'`"
        ) from error
