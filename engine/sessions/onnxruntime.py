"""ONNX Runtime sessions: its CPU provider, the OpenVINO plugin, and CUDA.

ONNX Runtime on its own runs on the CPU whenever a provider is absent or refuses a node, with a
warning at most (onnxruntime issues 17801, 23372, 26994). Two guards make that an error here: the
session refuses nodes left to the CPU, and the provider in charge must be the one asked for.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ..components import Contract
from ..errors import DeviceUnavailable, SessionError
from .base import Array, Feed, Session, SessionOptions, TensorSpec, check_contract

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
_OPENVINO_F32 = '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"%s}}'
"""Without the hint OpenVINO computes in bfloat16 where the CPU has it."""
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
_registration = threading.Lock()
_registered: set[str] = set()


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


def require_runtime(device: str) -> None:
    """Raise DeviceUnavailable unless ONNX Runtime has the provider that `device` needs."""
    if device == "openvino":
        _openvino_cpu()
    else:
        _require_provider(_PROVIDERS[device], f"lightfill[{device}]")


def _load(path: Path, device: str, options: SessionOptions) -> ort.InferenceSession:
    provider = _PROVIDERS[device]
    settings = ort.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    settings.enable_cpu_mem_arena = options.memory_arena
    settings.enable_mem_pattern = options.memory_arena
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if device != "cpu":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    arguments: dict[str, Any] = {}
    if device == "openvino":
        settings.add_provider_for_devices([_openvino_cpu()], _openvino_options(options))
    elif device == "cuda":
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


def _require_provider(provider: str, extra: str) -> None:
    available = ort.get_available_providers()
    if provider not in available:
        raise DeviceUnavailable(
            f"this ONNX Runtime has no {provider} (it has {', '.join(available)}); on a machine "
            f"with such a device, `pip uninstall onnxruntime` and `pip install '{extra}'`"
        )


def _openvino_cpu() -> "ort.OrtEpDevice":
    """The plugin's CPU device; registers the plugin with ONNX Runtime once per process."""
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError:
        raise DeviceUnavailable(
            "the OpenVINO plugin is not installed; `pip install 'lightfill[openvino]'`"
        ) from None
    name = plugin.get_ep_name()
    with _registration:
        # A plugin without devices is known to us alone, and refused when registered again.
        if name not in _registered | {device.ep_name for device in ort.get_ep_devices()}:
            _register(name, plugin.get_library_path())
    for device in ort.get_ep_devices():
        if device.ep_name == name and device.ep_metadata.get("ov_device") == "CPU":
            return device
    raise DeviceUnavailable(
        "the OpenVINO plugin offers no CPU device here: it lists Intel processors only "
        "(microsoft/onnxruntime pull request 31981); use --device cpu"
    )


def _register(name: str, library: str) -> None:
    try:
        ort.register_execution_provider_library(name, library)
    except Exception as error:
        raise DeviceUnavailable(
            f"the OpenVINO plugin cannot be loaded: {_first_line(error)}; reinstall it with "
            "`pip install --force-reinstall onnxruntime-ep-openvino`"
        ) from error
    _registered.add(name)


def _openvino_options(options: SessionOptions) -> dict[str, str]:
    threads = "" if options.threads is None else f', "INFERENCE_NUM_THREADS": {options.threads}'
    return {"load_config": _OPENVINO_F32 % threads}


def _spec(value: Any) -> TensorSpec:
    dtype = _DTYPES.get(value.type)
    if dtype is None:
        raise SessionError(f"tensor {value.name!r} has the unsupported type {value.type}")
    return TensorSpec(np.dtype(dtype), tuple(value.shape))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
