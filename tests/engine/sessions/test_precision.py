"""Precisions below float32: by name only, on the one device that has them, and what they change."""

from typing import Any

import numpy as np
import pytest
from component_feeds import COMPONENTS, FEEDS, run_on

from lightfill import Inpainter
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import ComponentMissing, DeviceUnavailable, InvalidInput
from lightfill.engine.precision import PRECISIONS, is_bfloat16, is_int8
from lightfill.engine.sessions import SessionOptions, open_session
from lightfill.engine.sessions.openvino import ov
from lightfill.engine.verify import MINIMUM_DB, MINIMUM_PICTURE_DB, verify

HAS_BFLOAT16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
REFUSED = r"^this processor has no bfloat16; leave bf16 out of the precision"
BFLOAT16 = SessionOptions(precision="bf16")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


@pytest.mark.parametrize("component", COMPONENTS)
def test_bfloat16_is_where_the_time_goes_and_nowhere_else(bundle: Bundle, component: str) -> None:
    if not HAS_BFLOAT16 and "text" not in component:
        with pytest.raises(DeviceUnavailable, match=REFUSED):
            open_session(bundle, component, "openvino", BFLOAT16)
        return
    expected = run_on(bundle, component, "openvino", FEEDS[component])
    with open_session(bundle, component, "openvino", BFLOAT16) as session:
        results = session.run(FEEDS[component])
    for name, array in expected.items():
        difference = np.abs(results[name] - array).max() / np.abs(array).max()
        assert results[name].dtype == np.float32
        assert (1e-4 < difference < 0.1) if "text" not in component else difference == 0


def test_bfloat16_passes_its_own_verification(bundle: Bundle) -> None:
    if not HAS_BFLOAT16:
        with pytest.raises(DeviceUnavailable, match=REFUSED):
            verify(bundle, "openvino", (64, 64), BFLOAT16)
        return
    found = verify(bundle, "openvino", (64, 64), BFLOAT16)
    assert all(part.passed and part.minimum_db == MINIMUM_DB["bf16"] for part in found), found


def with_capabilities(monkeypatch: pytest.MonkeyPatch, *capabilities: str) -> None:
    real = ov.Core.get_property

    def told(core: ov.Core, device: str, name: str) -> Any:
        return capabilities if name == "OPTIMIZATION_CAPABILITIES" else real(core, device, name)

    monkeypatch.setattr(ov.Core, "get_property", told)


@pytest.mark.parametrize("component", ["unet", "vae_encoder", "vae_decoder"])
def test_bfloat16_on_a_processor_without_it_is_refused(
    bundle: Bundle, component: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_capabilities(monkeypatch, "FP32", "INT8")
    with pytest.raises(DeviceUnavailable, match=REFUSED):
        open_session(bundle, component, "openvino", BFLOAT16)


def test_bfloat16_that_is_not_given_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_capabilities(monkeypatch, "BF16", "FP32")
    real = ov.Core.compile_model

    def in_float32(core: ov.Core, model: Any, device: str, settings: dict[str, Any]) -> Any:
        return real(core, model, device, settings | {"INFERENCE_PRECISION_HINT": ov.Type.f32})

    monkeypatch.setattr(ov.Core, "compile_model", in_float32)
    with pytest.raises(DeviceUnavailable, match=r"asked for bf16 but computes in f32 on this proc"):
        open_session(bundle, "unet", "openvino", BFLOAT16)
    open_session(bundle, "text_encoder", "openvino", BFLOAT16).close()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", ["cpu", "null"])
def test_other_devices_refuse_every_precision(bundle: Bundle, device: str, precision: str) -> None:
    options = SessionOptions(precision=precision)
    with pytest.raises(InvalidInput, match=rf"precision: .* runs on openvino, not on {device}; "):
        open_session(bundle, "vae_decoder", device, options)
    with pytest.raises(InvalidInput, match="runs on openvino"):
        Inpainter.open(device=device, precision=precision)
    with pytest.raises(InvalidInput, match="runs on openvino"):
        Inpainter.open(device=device, precision=precision, low_memory=True)


@pytest.mark.parametrize("precision", ["fp16", "INT8", "", 8, True, "int8,bf16"])
def test_unknown_precisions_list_those_there_are(precision: Any) -> None:
    with pytest.raises(InvalidInput, match=r"is none; choose bf16, int8, int8\+bf16, or None"):
        SessionOptions(precision=precision)


@pytest.mark.parametrize("precision", ["int8", "int8+bf16"])
@pytest.mark.parametrize("low_memory", [False, True])
def test_int8_that_was_not_made_is_refused_before_any_work(
    precision: str, low_memory: bool
) -> None:
    with (
        pytest.raises(ComponentMissing, match=r"has no int8 unet; make it with `lightfill quanti"),
        Inpainter.open(device="openvino", precision=precision, low_memory=low_memory) as inpainter,
    ):
        inpainter("no photo", "no mask", "a red ball")


def test_words_say_what_they_mean() -> None:
    meant = {each: (is_int8(each), is_bfloat16(each)) for each in (None, *PRECISIONS)}
    assert meant == {
        None: (False, False), "bf16": (False, True), "int8": (True, False),
        "int8+bf16": (True, True),
    }  # fmt: skip


def test_every_precision_has_its_bars() -> None:
    assert set(PRECISIONS) <= MINIMUM_DB.keys()
    assert set(PRECISIONS) <= MINIMUM_PICTURE_DB.keys()
