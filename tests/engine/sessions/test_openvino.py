"""What is OpenVINO's own: float32 by name, threads, its requests, and the picture it paints."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from component_feeds import COMPONENTS, FEEDS, run_on
from pictures import our_picture

from lightfill import Inpainter
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import DeviceUnavailable, SessionError
from lightfill.engine.sessions import SessionOptions, open_session, openvino
from lightfill.engine.sessions.openvino import ov

AGREEMENT = 1e-4
"""Largest difference from ONNX Runtime, relative to the output's largest value."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


@pytest.mark.parametrize("component", COMPONENTS)
def test_agrees_with_the_cpu(bundle: Bundle, component: str) -> None:
    results = run_on(bundle, component, "openvino", FEEDS[component])
    for name, array in run_on(bundle, component, "cpu", FEEDS[component]).items():
        difference = np.abs(results[name] - array).max() / np.abs(array).max()
        assert difference <= AGREEMENT, f"{name}: {difference:.1e}"


def test_a_result_outlives_the_next_run_of_the_same_request(bundle: Bundle) -> None:
    with open_session(bundle, "vae_decoder", "openvino") as session:
        first = session.run(FEEDS["vae_decoder"])["images"]
        kept = first.copy()
        session.run({"latents": FEEDS["vae_decoder"]["latents"] + 1})
        assert (first == kept).all()


def test_threads_reach_the_runtime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = ov.Core.compile_model, []

    def recording(core: ov.Core, model: Any, device: str, settings: Mapping[str, Any]) -> Any:
        compiled = real(core, model, device, settings)
        seen.append((device, compiled.get_property("INFERENCE_NUM_THREADS")))
        return compiled

    monkeypatch.setattr(ov.Core, "compile_model", recording)
    open_session(bundle, "text_encoder", "openvino", SessionOptions(threads=1)).close()
    assert seen == [("CPU", 1)]


class InBfloat16:
    """A compiled model that does what OpenVINO does when asked for what the processor has not."""

    def get_property(self, name: str) -> ov.Type:
        assert name == "INFERENCE_PRECISION_HINT"
        return ov.Type.bf16


def test_another_precision_than_asked_for_is_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ov.Core, "compile_model", lambda *_: InBfloat16())
    with pytest.raises(DeviceUnavailable, match=r"asked for f32 but computes in bf16 on this"):
        open_session(bundle, "unet", "openvino")


def test_machine_without_openvino_is_told_what_to_install(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "lightfill.engine.sessions.openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        DeviceUnavailable,
        match=r"^OpenVINO is not installed .* `pip install 'lightfill\[openvino\]",
    ):
        open_session(bundle, "unet", "openvino")


def test_openvino_without_a_processor_is_unavailable(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ov.Core, "available_devices", property(lambda _: ["GPU"]))
    with pytest.raises(DeviceUnavailable, match=r"no CPU device here \(it has GPU\); reinstall"):
        open_session(bundle, "unet", "openvino")


def test_error_without_words_is_named() -> None:
    assert openvino._reason(RuntimeError("")) == "RuntimeError"


def test_closing_while_another_thread_runs_keeps_nothing(bundle: Bundle) -> None:
    session = open_session(bundle, "vae_decoder", "openvino")
    session.run(FEEDS["vae_decoder"])
    request = session._request()  # a run under way in another thread
    session.close()
    assert request.infer(FEEDS["vae_decoder"])
    with pytest.raises(SessionError, match="closed"):
        session.run(FEEDS["vae_decoder"])
    assert session._idle == []


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_picture_is_the_cpus(size: tuple[int, int]) -> None:
    with Inpainter.open(device="openvino") as here, Inpainter.open() as there:
        difference = our_picture(here, size, steps=4).astype(int) - our_picture(
            there, size, steps=4
        )
    assert np.abs(difference).max() <= 1
