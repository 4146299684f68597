"""Low memory: one component in memory at a time, the same pictures, and when it is chosen."""

import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from lightfill.engine import cli, memory, nsfw_classifier
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import (
    Cancelled,
    ComponentMissing,
    ContractViolation,
    DeviceUnavailable,
    NonFiniteOutput,
    SessionError,
)
from lightfill.engine.pipeline import Inpainter
from lightfill.engine.result import Result
from lightfill.engine.sessions import Session, residency
from lightfill.engine.sessions.onnxruntime import OnnxRuntimeSession

PHOTO = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
MASK = np.zeros((90, 120), np.uint8)
MASK[30:70, 40:90] = 255
SMALL: dict[str, Any] = {"image_size": (64, 64), "steps": 2, "strength": 1.0, "seed": 7}
IN_ORDER = ["text_encoder", "text_encoder_2", "vae_encoder", "unet", "vae_decoder"]
EXAMPLES = Path(__file__).parents[2] / "examples"


def paint(inpainter: Inpainter, prompt: str = "a red ball", **options: Any) -> Result:
    return inpainter(PHOTO, MASK, prompt, **(SMALL | options))


def pixels(result: Result) -> np.ndarray:
    return np.stack([np.asarray(image) for image in result.images])


class Ledger:
    """Every opening in order, what is open and what runs now, and the most of both at once."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.now: list[str] = []
        self.running: list[str] = []
        self.most_open = self.most_running = 0
        self.closed_while_running: list[str] = []
        self._real = residency.open_session

    def open(self, bundle: Bundle, component: str, *rest: Any) -> Session:
        self.now.append(component)
        self.most_open = max(self.most_open, len(self.now))
        session = self._real(bundle, component, *rest)
        self.opened.append(component)
        real_run, real_close = session._run, session.close

        def run(feed: Any) -> Any:
            assert component in self.now
            self.running.append(component)
            self.most_running = max(self.most_running, len(self.running))
            try:
                return real_run(feed)
            finally:
                self.running.remove(component)

        def close() -> None:
            if component in self.running:
                self.closed_while_running.append(component)
            self.now.remove(component)
            real_close()

        session._run, session.close = run, close  # type: ignore[method-assign]
        return session

    def take(self) -> list[str]:
        taken, self.opened = self.opened, []
        return taken


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    kept = Ledger()
    monkeypatch.setattr(residency, "open_session", kept.open)
    yield kept
    assert not kept.closed_while_running
    assert not kept.now, "everything is closed in the end"


@pytest.fixture
def frugal(ledger: Ledger) -> Iterator[Inpainter]:
    """An Inpainter in low memory mode, its sessions watched."""
    with Inpainter.open(low_memory=True) as inpainter:
        yield inpainter
    assert ledger.most_open <= 1
    assert ledger.most_running <= 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_size": (96, 64), "steps": 4, "num_images": 3},
        {"blend": "diffusers", "composite": False, "strength": 0.6},
        {"crop_to_mask": 0.5, "steps": 1},
    ],
    ids=str,
)
def test_pictures_are_the_normal_modes(demo_inpainter: Inpainter, options: dict[str, Any]) -> None:
    """Bit for bit; weights mapped and cast while running may round one level of 255 otherwise."""
    expected = pixels(paint(demo_inpainter, **options))
    with Inpainter(Bundle.open(), low_memory=True) as same_arithmetic:
        assert same_arithmetic.low_memory
        assert (pixels(paint(same_arithmetic, **options)) == expected).all()
    with Inpainter.open(low_memory=True) as mapped:
        difference = np.abs(pixels(paint(mapped, **options)).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_components_are_opened_in_order_and_only_when_they_run(
    frugal: Inpainter, ledger: Ledger
) -> None:
    assert not ledger.opened
    paint(frugal)
    assert ledger.take() == IN_ORDER
    paint(frugal, "a blue ball")
    assert ledger.take() == ["text_encoder", "text_encoder_2", "unet", "vae_decoder"]
    paint(frugal, seed=8)
    assert ledger.take() == ["unet", "vae_decoder"]
    paint(frugal, num_images=3, steps=4)
    assert ledger.take() == ["unet", "vae_decoder"], "all pictures are denoised, then decoded"
    frugal(255 - PHOTO, MASK, "a red ball", **SMALL)
    assert ledger.take() == ["vae_encoder", "unet", "vae_decoder"]


def test_a_component_that_is_resident_is_not_opened_again(
    frugal: Inpainter, ledger: Ledger
) -> None:
    decoder = frugal._components.session("vae_decoder")
    for side in (8, 12):
        decoder.run({"latents": np.zeros((1, 4, side, side), np.float32)})
    assert ledger.take() == ["vae_decoder"]


def test_the_runtime_lets_go_of_each_component(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only `close` was called: nothing keeps ONNX Runtime's own session."""
    real, made = ort.InferenceSession, []

    def watched(*arguments: Any, **options: Any) -> Any:
        assert all(reference() is None for reference in made)
        session = real(*arguments, **options)
        made.append(weakref.ref(session))
        return session

    monkeypatch.setattr(ort, "InferenceSession", watched)
    with Inpainter.open(low_memory=True) as inpainter:
        paint(inpainter)
        paint(inpainter, "a blue ball")
    assert len(made) == 9
    assert all(reference() is None for reference in made)


def test_results_are_not_views_into_a_session(frugal: Inpainter) -> None:
    latents = np.zeros((1, 4, 8, 8), np.float32)
    images = frugal._components.session("vae_decoder").run({"latents": latents})["images"]
    assert images.base is None


def test_normal_mode_keeps_everything_open(ledger: Ledger) -> None:
    with Inpainter.open() as inpainter:
        assert inpainter.low_memory is False
        paint(inpainter)
        paint(inpainter, "a blue ball")
        assert sorted(ledger.now) == sorted(IN_ORDER)
    assert len(ledger.take()) == ledger.most_open == 5


def test_threads_take_turns_and_get_what_one_gets(frugal: Inpainter) -> None:
    requests = [
        {"prompt": prompt, "seed": seed, "image_size": size}
        for seed, (prompt, size) in enumerate(
            [("a red ball", (64, 64)), ("a blue ball", (96, 64)), ("grass", (64, 64))] * 3
        )
    ]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda options: paint(frugal, **options), requests))
    for options, result in zip(requests, parallel, strict=True):
        assert (pixels(result) == pixels(paint(frugal, **options))).all()


def test_a_cancelled_request_leaves_it_usable(frugal: Inpainter) -> None:
    expected = pixels(paint(frugal))
    with pytest.raises(Cancelled):
        paint(frugal, on_step=lambda _: False)
    assert (pixels(paint(frugal)) == expected).all()


def test_the_step_callback_may_paint_too(frugal: Inpainter) -> None:
    inner: list[Result] = []
    outer = paint(frugal, on_step=lambda _: inner.append(paint(frugal, "a blue ball")))
    assert len(inner) == 2
    assert (pixels(outer) == pixels(paint(frugal))).all()


def test_failures_of_a_run_and_of_an_opening_leave_it_usable(
    frugal: Inpainter, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pixels(paint(frugal))
    real = OnnxRuntimeSession._run

    def broken_run(session: OnnxRuntimeSession, feed: Any) -> Any:
        results = real(session, feed)
        return {name: np.full_like(array, np.nan) for name, array in results.items()}

    def broken_open(bundle: Bundle, component: str, *rest: Any) -> Session:
        raise SessionError(f"{component} cannot be loaded; mend it")

    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeSession, "_run", broken_run)
        with pytest.raises(NonFiniteOutput):
            paint(frugal)
    with monkeypatch.context() as patch:
        patch.setattr(residency, "open_session", broken_open)
        with pytest.raises(SessionError, match="text_encoder cannot be loaded"):
            paint(frugal, "a blue ball")
    assert not ledger.now, "what was resident has made room"
    assert (pixels(paint(frugal)) == expected).all()


def test_closing_waits_for_the_run_and_ends_the_request(
    frugal: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, finish = threading.Event(), threading.Event()
    real = OnnxRuntimeSession._run

    def slow(session: OnnxRuntimeSession, feed: Any) -> Any:
        if session.component == "unet":
            running.set()
            assert finish.wait(60)
        return real(session, feed)

    monkeypatch.setattr(OnnxRuntimeSession, "_run", slow)
    with ThreadPoolExecutor(2) as pool:
        request = pool.submit(paint, frugal)
        assert running.wait(60)
        closing = pool.submit(frugal.close)
        with pytest.raises(TimeoutError):
            closing.result(0.2)
        finish.set()
        closing.result(60)
        with pytest.raises(SessionError, match="this Inpainter is closed; open a new one"):
            request.result(60)


def test_closing_from_the_step_callback_ends_the_request(frugal: Inpainter) -> None:
    with pytest.raises(SessionError, match="this Inpainter is closed; open a new one"):
        paint(frugal, on_step=lambda _: frugal.close())
    frugal.close()
    with pytest.raises(SessionError, match="this Inpainter is closed; open a new one"):
        paint(frugal)


def test_what_can_be_refused_without_loading_is(
    frugal: Inpainter, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nsfw_classifier, "find_spec", lambda _: None)
    with pytest.raises(ComponentMissing, match="bundle has no safety_checker"):
        paint(frugal, enable_safety_checker=True)
    with pytest.raises(ContractViolation, match="'latents' is float32, was given float64"):
        frugal._components.session("vae_decoder").run({"latents": np.zeros((1, 4, 8, 8))})
    assert not ledger.opened


@pytest.mark.parametrize("device", ["gpu", None, "cuda"])
def test_a_device_that_is_not_here_is_refused_at_once(device: Any) -> None:
    if device == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(DeviceUnavailable):
        Inpainter.open(device=device, low_memory=True)


def test_the_null_device_takes_turns_too(ledger: Ledger) -> None:
    with Inpainter.open(device="null", low_memory=True) as inpainter:
        result = paint(inpainter)
    assert result.device == "null"
    assert ledger.opened == IN_ORDER
    assert ledger.most_open == 1


@pytest.mark.parametrize(("amount", "low"), [(1_000_000, True), (10**12, False)])
def test_open_chooses_and_tells(
    amount: int, low: bool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.WARNING, "lightfill")
    monkeypatch.setattr(memory, "WORTH_ASKING", 0)
    monkeypatch.setattr(memory, "available_bytes", lambda: amount)
    with Inpainter.open() as inpainter:
        assert inpainter.low_memory is low
        assert ledger.opened[:1] == ([] if low else ["unet"])
        assert len(ledger.opened) == (0 if low else 5)
    assert ("low memory mode" in caplog.text) is low


@pytest.mark.parametrize(
    ("flags", "wanted"), [([], None), (["--low-memory"], True), (["--no-low-memory"], False)]
)
def test_the_command_line_passes_it_on(
    flags: list[str], wanted: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = Inpainter.open

    def recording(*arguments: Any, **options: Any) -> Inpainter:
        seen.append(options["low_memory"])
        return real(*arguments, **options)

    monkeypatch.setattr(Inpainter, "open", recording)
    files = ["--image", EXAMPLES / "coffee.png", "--mask", EXAMPLES / "coffee-mask.png"]
    settings = ["--image-size", "64x64", "--steps", "1", "--output", tmp_path / "out.png"]
    arguments = ["inpaint", *files, "--prompt", "a green ball", *settings, *flags]
    monkeypatch.setattr(sys, "argv", ["lightfill", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert seen == [wanted]
    assert (tmp_path / "out.png").exists()
