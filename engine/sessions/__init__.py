"""Runtimes behind one small protocol, one module each, imported only when asked for."""

from typing import Literal, get_args

from ..bundle import Bundle
from ..errors import DeviceUnavailable
from .base import Session, SessionOptions, TensorSpec

Device = Literal["cpu", "openvino", "cuda", "null"]
DEVICES: tuple[str, ...] = get_args(Device)

__all__ = ["DEVICES", "Device", "Session", "SessionOptions", "TensorSpec", "open_session"]


def open_session(
    bundle: Bundle,
    component: str,
    device: str = "cpu",
    options: SessionOptions | None = None,
) -> Session:
    """Load one component of a bundle on `device`; what is asked for runs, or an error says why not.

    Raises DeviceUnavailable, ComponentMissing, BundleCorrupt or SessionError.
    """
    options = options or SessionOptions()
    match device:
        case "cpu" | "openvino" | "cuda":
            try:
                from .onnxruntime import OnnxRuntimeSession
            except ImportError as error:
                raise DeviceUnavailable(
                    f"ONNX Runtime is not installed ({error}); `pip install 'lightfill[{device}]'`"
                ) from error
            return OnnxRuntimeSession(bundle, component, device, options)
        case "null":
            from .null import NullSession

            return NullSession(bundle, component)
        case _:
            raise DeviceUnavailable(
                f"there is no device {device!r}; choose one of {', '.join(DEVICES)} "
                "(`lightfill doctor` shows which of them this machine has)"
            )
