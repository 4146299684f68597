"""Runtimes behind one small protocol, one module each, imported only when asked for."""

from pathlib import Path
from typing import Literal, get_args

from ..bundle import Bundle
from ..components import Contract
from ..engine_key import Flavour, is_built
from ..errors import DeviceUnavailable, InvalidInput
from ..precision import is_bfloat16, is_int8
from ..quantized_store import QuantizedStore
from .base import ARITHMETIC, PRECISION_DEVICE, Session, SessionOptions, TensorSpec

Device = Literal["cpu", "openvino", "cuda", "tensorrt", "rtx", "null"]
DEVICES: tuple[str, ...] = get_args(Device)
ENGINE_DEVICES: dict[str, Flavour] = {"tensorrt": "tensorrt", "rtx": "rtx"}
"""Devices whose components are compiled for each size beforehand."""
_COMPUTED_IN_BFLOAT16 = {"unet", "vae_encoder", "vae_decoder"}
"""Where the time goes; text encoders take little of it, and all else follows from what they say."""

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
    "require_precision",
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
    require_precision(bundle, component, device, options)
    if device in ENGINE_DEVICES:
        if is_built(bundle.component(component).role):
            from .tensorrt import TensorRtSession

            return TensorRtSession(bundle, component, ENGINE_DEVICES[device], options)
        return open_session(bundle, component, "cpu", options)
    if device == "null":
        from .null import NullSession

        return NullSession(bundle, component)
    if device == "openvino":
        return _open_in_openvino(bundle, component, options)
    from .onnxruntime import OnnxRuntimeSession

    path = bundle.graph(component, ARITHMETIC[device])
    return OnnxRuntimeSession(path, component, bundle.contract(component), device, options)


def require_precision(bundle: Bundle, component: str, device: str, options: SessionOptions) -> None:
    """Raise unless `device` can run a component in the precision asked for; reads no weights.

    Raises InvalidInput for another device than OpenVINO, ComponentMissing for a UNet that was not
    quantized, with the command that does it, or BundleCorrupt.
    """
    if options.precision is None:
        return
    if device != PRECISION_DEVICE:
        raise InvalidInput(
            "precision",
            f"{options.precision} runs on {PRECISION_DEVICE}, not on {device}; choose "
            f"--device {PRECISION_DEVICE}, or leave the precision out",
        )
    if bundle.component(component).role == "unet" and is_int8(options.precision):
        QuantizedStore(bundle).require(component)


def _open_in_openvino(bundle: Bundle, component: str, options: SessionOptions) -> Session:
    from .openvino import OpenVinoSession

    role = bundle.component(component).role
    if role == "unet" and is_int8(options.precision):
        path = QuantizedStore(bundle).checked(component)
    else:
        path = bundle.graph(component, ARITHMETIC[PRECISION_DEVICE])
    return OpenVinoSession(
        path,
        component,
        bundle.contract(component),
        options,
        bfloat16=is_bfloat16(options.precision) and role in _COMPUTED_IN_BFLOAT16,
    )


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
