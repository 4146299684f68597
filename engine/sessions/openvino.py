"""OpenVINO sessions on the processor, through OpenVINO's own runtime.

Not through ONNX Runtime's plugin, which lists Intel processors only
(docs/decisions/0008-openvino-by-its-own-runtime.md). OpenVINO computes in bfloat16 wherever the
processor has it, and in a precision it has when asked for one it has not, without a word: the
precision is asked for, and read back.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..components import Contract, Tensor
from ..errors import DeviceUnavailable, SessionError
from ..memory import return_freed
from ..telemetry import no_telemetry
from .base import Array, Feed, Session, SessionOptions, TensorSpec, check_contract

with no_telemetry():
    import openvino as ov

_CPU = "CPU"
_PRECISION = "INFERENCE_PRECISION_HINT"
_CAPABILITIES = "OPTIMIZATION_CAPABILITIES"
_FAILURES = (RuntimeError, MemoryError)
"""What its C++ layers throw, as Python sees it."""


class OpenVinoSession(Session):
    """One component's ONNX graph in OpenVINO; `run` may be called from several threads."""

    def __init__(
        self,
        path: Path,
        component: str,
        contract: Contract,
        options: SessionOptions,
        *,
        bfloat16: bool = False,
    ) -> None:
        wanted = ov.Type.bf16 if bfloat16 else ov.Type.f32
        self._compiled: ov.CompiledModel | None = _compile(path, options, wanted)
        self._idle: list[ov.InferRequest] = []
        self._lock = threading.Lock()
        inputs = _specs(self._compiled.inputs, contract.inputs)
        outputs = _specs(self._compiled.outputs, contract.outputs)
        check_contract(component, contract, inputs, outputs)
        super().__init__(component, "openvino", inputs, outputs)

    def _run(self, feed: Feed) -> dict[str, Array]:
        request = self._request()
        try:
            # Inputs are read where they lie; results are copied, for the next run writes over them.
            results = request.infer(dict(feed), share_inputs=True, share_outputs=False)
        except _FAILURES as error:
            raise SessionError(
                f"{self.component} failed on openvino: {_reason(error)}; "
                "try a smaller image_size, or --device cpu"
            ) from error
        with self._lock:
            if self._compiled is not None:
                self._idle.append(request)
        return {name: results[name] for name in self.outputs}

    def close(self) -> None:
        with self._lock:
            self._compiled = None
            self._idle.clear()

    def _request(self) -> ov.InferRequest:
        """One that no thread uses: each holds the inputs and outputs of the run under way."""
        with self._lock:
            if self._compiled is None:
                raise SessionError(f"{self.component} is closed; open a new Inpainter")
            return self._idle.pop() if self._idle else self._compiled.create_infer_request()


def require_processor() -> None:
    """Raise DeviceUnavailable unless OpenVINO has a processor it can run on."""
    devices = ov.Core().available_devices
    if _CPU not in devices:
        raise DeviceUnavailable(
            f"OpenVINO offers no CPU device here (it has {', '.join(devices) or 'none'}); "
            "reinstall it with `pip install --force-reinstall openvino`, or use --device cpu"
        )


def require_bfloat16() -> None:
    """Raise DeviceUnavailable unless the processor computes in bfloat16 by itself."""
    if "BF16" not in ov.Core().get_property(_CPU, _CAPABILITIES):
        raise DeviceUnavailable(
            "this processor has no bfloat16; leave bf16 out of the precision, or the precision out"
        )


def _compile(path: Path, options: SessionOptions, wanted: ov.Type) -> ov.CompiledModel:
    settings: dict[str, Any] = {_PRECISION: wanted, "PERFORMANCE_HINT": "LATENCY"}
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    core = ov.Core()
    if wanted == ov.Type.bf16:
        require_bfloat16()
    try:
        compiled = core.compile_model(core.read_model(path), _CPU, settings)
    except _FAILURES as error:
        raise SessionError(
            f"{path.parent.name} cannot be loaded on openvino: {_reason(error)}; "
            "run `lightfill doctor`, or use --device cpu"
        ) from error
    return_freed()  # weights on their way to their packed form, 10 GB of SDXL's UNet
    computes_in = compiled.get_property(_PRECISION)
    if computes_in != wanted:
        raise DeviceUnavailable(
            f"OpenVINO was asked for {wanted.get_type_name()} but computes in "
            f"{computes_in.get_type_name()} on this processor; leave the precision out, or use "
            "--device cpu"
        )
    return compiled


def _specs(found: list[ov.ConstOutput], wanted: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """What a compiled model takes or gives; the contract names the sizes that it leaves open."""
    specs = {}
    for value in found:
        name = value.any_name
        symbols = wanted[name].shape if name in wanted else ()
        specs[name] = TensorSpec(
            value.element_type.to_dtype(),
            tuple(
                size.get_length() if size.is_static else _symbol(name, index, symbols)
                for index, size in enumerate(value.partial_shape)
            ),
        )
    return specs


def _symbol(name: str, index: int, symbols: tuple[int | str | None, ...]) -> str:
    symbol = symbols[index] if index < len(symbols) else None
    return symbol if isinstance(symbol, str) else f"{name}[{index}]"


def _reason(error: Exception) -> str:
    """What went wrong in one line: the last that says so, after those that say where in C++."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
