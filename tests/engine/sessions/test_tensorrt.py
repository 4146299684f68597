"""TensorRT sessions on a simulated GPU: they compute what the graph does, and use the GPU well."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from simulated_gpu import Bench, feed_of
from simulated_gpu.cuda import Cuda, cudaError_t
from simulated_gpu.tensorrt import IRuntimeCache

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import ContractViolation, SessionError
from lightfill.engine.sessions import open_session
from lightfill.engine.sessions.base import Feed
from lightfill.engine.sessions.cuda_device import CudaDevice

Reference = Callable[[str, Feed], dict[str, np.ndarray]]
COMPONENTS = ["text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder"]


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_equals_its_graph_bit_for_bit(
    bench: Bench, reference: Reference, component: str
) -> None:
    bench.build(component)
    session = bench.open(component)
    for seed in range(3):
        feed = feed_of(component, seed=seed)
        before = {name: array.copy() for name, array in feed.items()}
        assert_same(session.run(feed), reference(component, feed))
        assert all((feed[name] == before[name]).all() for name in feed)


def test_engines_are_chosen_by_what_is_fed(bench: Bench, reference: Reference) -> None:
    for side, batch in ((64, 1), (96, 1), (64, 2)):
        bench.build("unet", side, batch)
    session = bench.open()
    for side, batch in ((64, 1), (64, 2), (96, 1), (64, 1)):
        feed = feed_of("unet", side, batch)
        assert_same(session.run(feed), reference("unet", feed))
    assert bench.machine.events.count("deserialise") == 3


def test_inputs_that_did_not_change_are_not_uploaded_again(bench: Bench) -> None:
    bench.build("unet")
    session, feed = bench.open(), feed_of("unet")
    session.run(feed)
    assert len(uploads(bench)) == len(feed)
    bench.machine.events.clear()
    session.run({name: array.copy() for name, array in feed.items()})
    assert uploads(bench) == []  # equal content, though other arrays
    session.run(feed | {"sample": feed_of("unet", seed=1)["sample"]})
    assert uploads(bench) == [feed["sample"].nbytes]


def uploads(bench: Bench) -> list[int]:
    return [int(event.split()[1]) for event in bench.machine.events if event.startswith("upload")]


@pytest.mark.parametrize("place", [0, -1], ids=["first element", "last element"])
def test_an_array_changed_in_place_is_uploaded_again(
    bench: Bench, reference: Reference, place: int
) -> None:
    bench.build("unet")
    session, feed = bench.open(), feed_of("unet")
    session.run(feed)
    for name in ("encoder_hidden_states", "text_embeds", "sample"):
        feed[name].reshape(-1)[place] += 1
        assert_same(session.run(feed), reference("unet", feed))


def test_minus_zero_is_not_zero(bench: Bench) -> None:
    bench.build("unet")
    session, feed = bench.open(), feed_of("unet")
    feed["sample"][0, 0, 0, 0] = 0.0
    session.run(feed)
    bench.machine.events.clear()
    feed["sample"][0, 0, 0, 0] = -0.0
    session.run(feed)
    assert uploads(bench) == [feed["sample"].nbytes]


def test_arrays_of_any_layout_are_taken(bench: Bench, reference: Reference) -> None:
    bench.build("unet")
    session, feed = bench.open(), feed_of("unet")
    turned = np.asfortranarray(feed["sample"])
    assert_same(session.run(feed | {"sample": turned}), reference("unet", feed))


def test_the_first_run_warms_up_and_later_ones_replay(bench: Bench) -> None:
    bench.build("unet")
    session = bench.open()
    for seed in range(3):
        session.run(feed_of("unet", seed=seed))
    if bench.flavour == "tensorrt":  # executed, captured, replayed twice
        assert bench.machine.events.count("execute unet") == 2
        assert bench.machine.events.count("replay") == 2
    else:  # TensorRT-RTX captures and replays itself
        assert bench.machine.events.count("execute unet") == 3
        assert bench.machine.events.count("replay") == 0


def test_a_larger_engine_moves_the_shared_activations_and_graphs_follow(
    bench: Bench, reference: Reference
) -> None:
    bench.build("unet", 64, activations=1000)
    bench.build("unet", 96, activations=9000)
    session = bench.open()
    for side in (64, 64, 96, 96, 64, 64):
        feed = feed_of("unet", side, seed=side)
        assert_same(session.run(feed), reference("unet", feed))
    blocks = [m for m in bench.machine.memory if m.purpose in {"1000 bytes", "9000 bytes"}]
    assert [block.freed for block in blocks] == [True, False]


def test_components_share_one_block_of_activations(bench: Bench) -> None:
    for component, activations in (("unet", 5000), ("vae_decoder", 7000), ("vae_encoder", 6000)):
        bench.build(component, activations=activations)
        bench.open(component).run(feed_of(component))
    live = {m.purpose for m in bench.machine.memory if not m.freed}
    assert live & {"5000 bytes", "6000 bytes", "7000 bytes"} == {"7000 bytes"}


def test_two_sessions_of_one_engine_hold_it_once_until_both_are_closed(bench: Bench) -> None:
    bench.build("unet")
    first, second = bench.open(), bench.open()
    for session in (first, second):
        session.run(feed_of("unet"))
    assert bench.machine.events.count("deserialise") == 1
    first.close()
    second.run(feed_of("unet"))
    assert bench.machine.events.count("deserialise") == 1


def test_results_are_the_callers_own(bench: Bench) -> None:
    bench.build("unet")
    session = bench.open()
    first = session.run(feed_of("unet", seed=1))["prediction"]
    kept = first.copy()
    session.run(feed_of("unet", seed=2))
    session.close()
    np.testing.assert_array_equal(first, kept)
    first += 1  # writeable


def test_threads_take_turns(bench: Bench, reference: Reference) -> None:
    for component in ("unet", "vae_decoder"):
        bench.build(component)
    sessions = {name: bench.open(name) for name in ("unet", "vae_decoder")}
    work = [(name, seed) for seed in range(6) for name in sessions]

    def run(item: tuple[str, int]) -> dict[str, np.ndarray]:
        return sessions[item[0]].run(feed_of(item[0], seed=item[1]))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, work))
    for (name, seed), result in zip(work, results, strict=True):
        assert_same(result, reference(name, feed_of(name, seed=seed)))


def test_another_thread_uses_the_chosen_gpu(bench: Bench, reference: Reference) -> None:
    bench.machine.gpus = 2
    bench.build("unet")
    session = bench.open(device_index=1)
    results = []
    thread = threading.Thread(target=lambda: results.append(session.run(feed_of("unet"))))
    thread.start()
    thread.join()
    assert_same(results[0], reference("unet", feed_of("unet")))
    assert bench.machine.used(0) == 0 < bench.machine.used(1)


def test_a_signals_handler_may_close_the_session_that_runs(
    bench: Bench, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.build("unet")
    session = bench.open()
    session.run(feed_of("unet"))
    waited = CudaDevice.synchronise

    def close_then_wait(self: CudaDevice) -> None:
        session.close()
        waited(self)

    monkeypatch.setattr(CudaDevice, "synchronise", close_then_wait)
    assert_same(session.run(feed_of("unet", seed=1)), reference("unet", feed_of("unet", seed=1)))
    assert bench.machine.used() == 0


def test_a_closed_session_says_so_and_closes_twice(bench: Bench) -> None:
    bench.build("unet")
    session = bench.open()
    session.run(feed_of("unet"))
    session.close()
    session.close()
    for call in (
        lambda: session.run(feed_of("unet")),
        lambda: session.require({"batch": 1, "height": 8, "width": 8}),
    ):
        with pytest.raises(SessionError, match=r"^unet is closed; open a new Inpainter$"):
            call()


def test_sessions_can_be_opened_again_after_the_last_was_closed(bench: Bench) -> None:
    bench.build("unet")
    for _ in range(2):
        with bench.open() as session:
            session.run(feed_of("unet"))
    assert bench.machine.events.count("deserialise") == 2


def test_wrong_widths_are_refused_in_the_contracts_words(bench: Bench) -> None:
    bench.build("unet")
    session, feed = bench.open(), feed_of("unet")
    wrong = feed | {"encoder_hidden_states": np.zeros((1, 77, 81), np.float16)}
    with pytest.raises(ContractViolation, match=r"^unet input 'encoder_hidden_states' is float16"):
        session.run(wrong)
    with pytest.raises(ContractViolation, match=r"^unet input 'sample' is float16, was given"):
        session.run(feed | {"sample": feed["sample"].astype(np.float32)})
    session.run(feed)


def test_the_prompt_expander_has_no_engines_and_says_where_it_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = bench.bundle.component("text_encoder")
    expander = component.model_copy(update={"role": "prompt_expander"})
    monkeypatch.setattr(Bundle, "component", lambda self, name: expander)
    opened = []
    monkeypatch.setattr(
        "lightfill.engine.sessions.onnxruntime.OnnxRuntimeSession",
        lambda path, name, contract, device, options: opened.append((name, device)),
    )
    open_session(bench.bundle, "prompt_expander", bench.flavour)
    assert opened == [("prompt_expander", "cpu")]


def test_what_rtx_compiled_is_kept_on_disk(bench: Bench) -> None:
    bench.build("unet")
    with bench.open() as session:
        session.run(feed_of("unet"))
    assert "cache read" not in bench.machine.events
    with bench.open() as session:
        session.run(feed_of("unet"))
    assert ("cache read" in bench.machine.events) is (bench.flavour == "rtx")


@pytest.mark.parametrize("bench", ["rtx"], indirect=True)  # TensorRT has no runtime cache
def test_a_runtime_cache_of_another_machine_is_compiled_again(bench: Bench) -> None:
    bench.build("unet")
    with bench.open() as session, pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(IRuntimeCache, "_HEADER", b"another version\n")
        session.run(feed_of("unet"))
    for read in (False, True):
        with bench.open() as session:
            session.run(feed_of("unet"))
        assert ("cache read" in bench.machine.events) is read


@pytest.mark.parametrize("bench", ["tensorrt"], indirect=True)  # TensorRT-RTX captures itself
def test_an_engine_that_cannot_be_captured_runs_without_a_graph(
    bench: Bench,
    reference: Reference,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if bench.flavour != "tensorrt":
        pytest.skip("TensorRT-RTX captures itself")
    monkeypatch.setattr(
        Cuda,
        "cudaStreamEndCapture",
        lambda self, stream: (
            setattr(self._machine.stream(int(stream), ""), "captured", None)
            or (self._failed(cudaError_t.cudaErrorStreamCaptureUnsupported), None)
        ),
    )
    bench.build("unet")
    session = bench.open()
    for seed in range(3):
        feed = feed_of("unet", seed=seed)
        assert_same(session.run(feed), reference("unet", feed))
    assert caplog.text.count("unet runs without a CUDA graph, which is slower") == 1
