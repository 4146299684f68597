"""ONNX Runtime sessions on the demo model: contracts, failures, devices, and that they agree."""

import hashlib
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from lightfill.engine.bundle import DEMO_BUNDLE, Bundle
from lightfill.engine.errors import (
    ContractViolation,
    DeviceUnavailable,
    NonFiniteOutput,
    SessionError,
)
from lightfill.engine.manifest import MANIFEST_NAME
from lightfill.engine.sessions import DEVICES, SessionOptions, open_session
from lightfill.engine.sessions.base import Feed

AGREEMENT = 1e-3
"""Largest difference allowed between devices, relative to the largest value of the output."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


FEEDS: dict[str, dict[str, np.ndarray]] = {
    "text_encoder": {"inputs_embeds": random(1, 77, 32)},
    "text_encoder_2": {"inputs_embeds": random(1, 77, 48), "eos_position": np.array([5])},
    "unet": {
        "sample": random(2, 4, 8, 12),
        "timestep": np.array([749], np.float32),
        "encoder_hidden_states": random(2, 77, 80),
        "text_embeds": random(2, 48),
        "time_ids": np.array([[64, 96, 0, 0, 64, 96]] * 2, np.float32),
    },
    "vae_encoder": {"images": np.clip(random(1, 3, 64, 96) / 3, -1, 1)},
    "vae_decoder": {"latents": random(2, 4, 8, 12)},
}
SHAPES = {
    "text_encoder": {"hidden_states": (1, 77, 32)},
    "text_encoder_2": {"hidden_states": (1, 77, 48), "text_embeds": (1, 48)},
    "unet": {"prediction": (2, 4, 8, 12)},
    "vae_encoder": {"moments": (1, 8, 8, 12)},
    "vae_decoder": {"images": (2, 3, 64, 96)},
}
COMPONENTS = list(FEEDS)


def run_on(bundle: Bundle, component: str, device: str, feed: Feed) -> dict[str, np.ndarray]:
    with open_session(bundle, component, device) as session:
        return session.run(feed)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_runs_and_repeats_exactly(bundle: Bundle, component: str) -> None:
    feed = FEEDS[component]
    before = {name: array.copy() for name, array in feed.items()}
    with open_session(bundle, component) as session:
        assert (session.component, session.device) == (component, "cpu")
        first, second = session.run(feed), session.run(feed)
    assert {name: array.shape for name, array in first.items()} == SHAPES[component]
    for name, array in first.items():
        assert array.dtype == np.float32
        assert array.std() > 0
        assert (array == second[name]).all()
    assert all((feed[name] == before[name]).all() for name in feed)


@pytest.mark.parametrize("component", COMPONENTS)
def test_wrong_names_are_refused_in_the_contracts_words(bundle: Bundle, component: str) -> None:
    feed = dict(FEEDS[component])
    renamed = feed.pop(next(iter(feed)))
    with (
        open_session(bundle, component) as session,
        pytest.raises(ContractViolation, match=f"^{component} takes inputs .* was given .*wrong"),
    ):
        session.run(feed | {"wrong": renamed})


@pytest.mark.parametrize(
    ("component", "name"), [(component, name) for component in FEEDS for name in FEEDS[component]]
)
def test_wrong_dtype_and_rank_of_any_input_are_refused(
    bundle: Bundle, component: str, name: str
) -> None:
    feed = FEEDS[component]
    with open_session(bundle, component) as session:
        with pytest.raises(ContractViolation, match=rf"^{component} input '{name}' is .*float16$"):
            session.run(feed | {name: feed[name].astype(np.float16)})
        with pytest.raises(ContractViolation, match=rf"^{component} input '{name}' has shape"):
            session.run(feed | {name: feed[name][None]})


def test_fixed_width_and_unequal_batches_are_refused(bundle: Bundle) -> None:
    with open_session(bundle, "unet") as session:
        with pytest.raises(ContractViolation, match=r"'sample' has shape .* given .2, 5, 8, 12"):
            session.run(FEEDS["unet"] | {"sample": random(2, 5, 8, 12)})
        with pytest.raises(ContractViolation, match=r"'text_embeds' has shape .* given .1, 48"):
            session.run(FEEDS["unet"] | {"text_embeds": random(1, 48)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_that_comes_out_of_the_runtime_is_an_error(bundle: Bundle, value: float) -> None:
    latents = FEEDS["vae_decoder"]["latents"].copy()
    latents[0, 0, 0, 0] = value
    with pytest.raises(NonFiniteOutput, match=r"^vae_decoder produced NaN or infinity in 'images'"):
        run_on(bundle, "vae_decoder", "cpu", {"latents": latents})


def test_failure_inside_the_runtime_is_one_sentence(bundle: Bundle) -> None:
    """Odd sides pass the contract, but the UNet's halves do not fit together again."""
    feed = FEEDS["unet"] | {"sample": random(2, 4, 7, 9)}
    with pytest.raises(SessionError, match=r"^unet failed on cpu: .*; try a smaller") as caught:
        run_on(bundle, "unet", "cpu", feed)
    assert "\n" not in str(caught.value)


def test_closed_session_raises_and_closes_twice(bundle: Bundle) -> None:
    session = open_session(bundle, "vae_decoder")
    session.close()
    session.close()
    with pytest.raises(SessionError, match=r"vae_decoder is closed; open a new Inpainter"):
        session.run(FEEDS["vae_decoder"])


def test_one_session_serves_many_threads(bundle: Bundle) -> None:
    with open_session(bundle, "unet", options=SessionOptions(threads=1)) as session:
        expected = session.run(FEEDS["unet"])["prediction"]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: session.run(FEEDS["unet"]), range(12)))
    assert all((result["prediction"] == expected).all() for result in results)


def test_options_reach_the_runtime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool, bool]] = []
    real = ort.InferenceSession

    def recording(path: Path, settings: ort.SessionOptions, **arguments: Any) -> Any:
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


def test_openvino_without_its_plugin_is_unavailable(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
    with pytest.raises(DeviceUnavailable, match=r"not installed; `pip install 'lightfill\[openvin"):
        open_session(bundle, "unet", "openvino")


def test_machine_without_onnxruntime_is_told_what_to_install(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "lightfill.engine.sessions.onnxruntime", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        DeviceUnavailable, match=r"is not installed .* `pip install 'lightfill\[cpu"
    ):
        open_session(bundle, "unet", "cpu")


def test_openvino_without_a_device_is_refused_the_same_way_each_time(bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime_ep_openvino", reason="lightfill[openvino] is not installed")
    refusals = []
    for _ in range(2):
        try:
            open_session(bundle, "text_encoder", "openvino").close()
        except DeviceUnavailable as error:
            refusals.append(str(error))
    assert len(refusals) in (0, 2)
    assert len(set(refusals)) <= 1


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


@pytest.mark.parametrize("component", COMPONENTS)
def test_openvino_agrees_with_the_cpu(bundle: Bundle, component: str) -> None:
    pytest.importorskip("onnxruntime_ep_openvino", reason="lightfill[openvino] is not installed")
    feed = FEEDS[component]
    try:
        results = run_on(bundle, component, "openvino", feed)
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    expected = run_on(bundle, component, "cpu", feed)
    for name, array in expected.items():
        difference = np.abs(results[name] - array).max() / np.abs(array).max()
        assert difference <= AGREEMENT, f"{name}: {difference:.1e}"


def altered_bundle(tmp_path: Path, graph: str, data: bytes) -> Bundle:
    """A copy of the demo bundle in which one graph is another file, correctly listed."""
    root = Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))
    (root / graph).write_bytes(data)
    manifest = json.loads((root / MANIFEST_NAME).read_text())
    manifest["files"][graph] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (root / MANIFEST_NAME).write_text(json.dumps(manifest))
    return Bundle.open(root)


def test_graph_the_runtime_cannot_read_is_one_sentence(tmp_path: Path) -> None:
    bundle = altered_bundle(tmp_path, "unet/float32.onnx", b"no graph")
    with pytest.raises(SessionError, match=r"^unet cannot be loaded on cpu: .*doctor") as caught:
        open_session(bundle, "unet")
    assert "\n" not in str(caught.value)


def test_graph_of_another_component_breaks_the_contract(tmp_path: Path) -> None:
    graph = (DEMO_BUNDLE / "vae_encoder/float32.onnx").read_bytes()
    bundle = altered_bundle(tmp_path, "vae_decoder/float32.onnx", graph)
    weights = bundle.root / "vae_decoder/weights.bin"
    shutil.copy(DEMO_BUNDLE / "vae_encoder/weights.bin", weights)
    with pytest.raises(ContractViolation, match=r"^vae_decoder has inputs .*; export the bundle"):
        open_session(bundle, "vae_decoder")
