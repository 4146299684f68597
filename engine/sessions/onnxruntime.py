"""ONNX Runtime sessions: its CPU provider, and CUDA.

ONNX Runtime on its own runs on the CPU whenever a provider is absent or refuses a node, with a
warning at most (onnxruntime issues 17801, 23372, 26994). Two guards make that an error here: the
session refuses nodes left to the CPU, and the provider in charge must be the one asked for.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ..components import Contract
from ..errors import DeviceUnavailable, SessionError
from .base import Array, Feed, Session, SessionOptions, TensorSpec, check_contract

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
}
_COPYING_OPTIMIZERS = (
    "ConstantFolding",  # computes the Cast of every stored float16 weight at load
    "FuseFp16InitializerToFp32NodeTransformer",  # does the same where folding left one
    "NchwcTransformer",  # reorders the weights of convolutions
)
"""Optimisations that copy weights: without them ONNX Runtime runs on the mapped file."""
_ERRORS_ONLY = 3


class OnnxRuntimeSession(Session):
    """One component's ONNX graph in ONNX Runtime; `run` may be called from several threads."""

    def __init__(
        self, path: Path, component: str, contract: Contract, device: str, options: SessionOptions
    ) -> None:
        self._session: ort.InferenceSession | None = _load(path, device, options)
        inputs = {value.name: _spec(value) for value in self._session.get_inputs()}
        outputs = {value.name: _spec(value) for value in self._session.get_outputs()}
        check_contract(component, contract, inputs, outputs)
        super().__init__(component, device, inputs, outputs)

    def _run(self, feed: Feed) -> dict[str, Array]:
        session = self._session  # closing meanwhile must not pull it from under this run
        if session is None:
            raise SessionError(f"{self.component} is closed; open a new Inpainter")
        names = list(self.outputs)
        try:
            values = session.run(names, dict(feed))
        except Exception as error:  # the pybind layer raises a dozen unrelated types
            raise SessionError(
                f"{self.component} failed on {self.device}: {_first_line(error)}; "
                "try a smaller image_size, or --device cpu"
            ) from error
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        self._session = None


def require_provider(device: str) -> None:
    """Raise DeviceUnavailable unless ONNX Runtime has the provider that `device` needs."""
    provider = _PROVIDERS[device]
    available = ort.get_available_providers()
    if provider not in available:
        raise DeviceUnavailable(
            f"this ONNX Runtime has no {provider} (it has {', '.join(available)}); "
            "on a machine with such a device, `pip uninstall onnxruntime` and "
            f"`pip install 'lightfill[{device}]'`"
        )


def _load(path: Path, device: str, options: SessionOptions) -> ort.InferenceSession:
    provider = _PROVIDERS[device]
    settings = ort.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    # Each component has threads of its own; those that wait for its next run, spinning, would take
    # the cores from the component that runs meanwhile: half of the embedded model's speed.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    settings.enable_cpu_mem_arena = options.memory_arena
    settings.enable_mem_pattern = options.memory_arena
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if device != "cpu":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    arguments: dict[str, Any] = {}
    if device == "cuda":
        arguments["providers"] = [(provider, {"device_id": options.device_index})]
    else:
        arguments["providers"] = [provider]
        if options.weights_mapped:
            arguments["disabled_optimizers"] = list(_COPYING_OPTIMIZERS)
            settings.add_session_config_entry("session.disable_prepacking", "1")
            settings.enable_mem_pattern = False  # one block for a whole run: up to twice the peak
    try:
        session = ort.InferenceSession(path, settings, **arguments)
    except Exception as error:
        raise SessionError(
            f"{path.parent.name} cannot be loaded on {device}: {_first_line(error)}; "
            "run `lightfill doctor`, or use --device cpu"
        ) from error
    in_charge = session.get_providers()[0]
    if in_charge != provider:
        raise DeviceUnavailable(
            f"{device} was asked for but ONNX Runtime chose {in_charge}; run `lightfill doctor`"
        )
    return session


def _spec(value: Any) -> TensorSpec:
    dtype = _DTYPES.get(value.type)
    if dtype is None:
        raise SessionError(f"tensor {value.name!r} has the unsupported type {value.type}")
    return TensorSpec(np.dtype(dtype), tuple(value.shape))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
