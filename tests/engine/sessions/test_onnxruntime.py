"""What is ONNX Runtime's own: options, providers that are not there, and weights left on disk."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from component_feeds import COMPONENTS, FEEDS, run_on

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import DeviceUnavailable
from lightfill.engine.sessions import DEVICES, SessionOptions, open_session


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


def test_options_reach_the_runtime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool, bool]] = []
    real = ort.InferenceSession

    def recording(path: Path, settings: ort.SessionOptions, **arguments: Any) -> Any:
        assert settings.get_session_config_entry("session.force_spinning_stop") == "1"
        arena, pattern = settings.enable_cpu_mem_arena, settings.enable_mem_pattern
        seen.append((settings.intra_op_num_threads, arena, pattern))
        return real(path, settings, **arguments)

    monkeypatch.setattr(ort, "InferenceSession", recording)
    open_session(bundle, "text_encoder").close()
    options = SessionOptions(threads=3, memory_arena=False)
    open_session(bundle, "text_encoder", "cpu", options).close()
    assert seen == [(0, True, True), (3, False, False)]


@pytest.mark.parametrize("component", COMPONENTS)
def test_mapped_weights_are_cast_while_running(
    bundle: Bundle, component: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One Cast per stored float16 weight is left, and runs shortly before its result is used."""
    real, made = ort.InferenceSession, []

    def profiled(path: Path, settings: ort.SessionOptions, **arguments: Any) -> Any:
        assert not settings.enable_mem_pattern
        assert settings.get_session_config_entry("session.disable_prepacking") == "1"
        settings.enable_profiling = True
        settings.profile_file_prefix = str(tmp_path / "profile")
        made.append(real(path, settings, **arguments))
        return made[-1]

    feed = FEEDS[component]
    expected = run_on(bundle, component, "cpu", feed)
    monkeypatch.setattr(ort, "InferenceSession", profiled)
    with open_session(bundle, component, "cpu", SessionOptions(weights_mapped=True)) as session:
        results = session.run(feed)
    events = json.loads(Path(made[0].end_profiling()).read_text())
    ran = [event["args"] for event in events if event["name"].endswith("_kernel_time")]
    casts = [at for at, node in enumerate(ran) if "float16" in str(node["input_type_shape"])]
    graph = onnx.load(bundle.graph(component, "float32"), load_external_data=False).graph
    halves = [
        tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16
    ]
    assert len(casts) == len(halves) > 5
    assert max(casts) > len(ran) / 2  # all at the start would hold all weights in float32 again
    for name, array in expected.items():
        assert np.abs(results[name] - array).max() <= 1e-5 * np.abs(array).max(), name


@pytest.mark.parametrize("device", ["", "gpu", "CPU", "tpu"])
def test_unknown_device_lists_those_there_are(bundle: Bundle, device: str) -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        open_session(bundle, "unet", device)
    assert f"there is no device {device!r}; choose one of {', '.join(DEVICES)}" in str(caught.value)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_cuda_without_its_provider_is_unavailable(bundle: Bundle) -> None:
    with pytest.raises(
        DeviceUnavailable, match=r"has no CUDAExecutionProvider .*lightfill\[cuda\]"
    ):
        open_session(bundle, "unet", "cuda")


def test_machine_without_onnxruntime_is_told_what_to_install(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "lightfill.engine.sessions.onnxruntime", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        DeviceUnavailable, match=r"is not installed .* `pip install 'lightfill\[cpu"
    ):
        open_session(bundle, "unet", "cpu")


class FallenBack:
    """A runtime that took the CPU although another provider was asked for."""

    def __init__(self, path: Path, settings: ort.SessionOptions, **_: Any) -> None:
        self.settings = settings
        fallback = settings.get_session_config_entry("session.disable_cpu_ep_fallback")
        assert fallback == "1", "nodes left to the CPU are to be refused"

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_silent_fallback_to_the_cpu_is_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    monkeypatch.setattr(ort, "InferenceSession", FallenBack)
    with pytest.raises(DeviceUnavailable, match=r"cuda was asked for but ONNX Runtime chose CPU"):
        open_session(bundle, "unet", "cuda")
