"""What TensorRT sessions refuse before the GPU sees anything, in which words; lack of memory."""

import builtins
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_gpu import Bench, Machine, feed_of, install

from lightfill.engine.bundle import Bundle
from lightfill.engine.engine_store import EngineStore
from lightfill.engine.errors import (
    BuildFailed,
    DeviceOutOfMemory,
    DeviceUnavailable,
    EngineCorrupt,
    EngineNotBuilt,
    EngineStale,
    InvalidInput,
    SessionError,
)
from lightfill.engine.pipeline import Inpainter
from lightfill.engine.sessions import SessionOptions, open_session, require_device
from lightfill.engine.sessions.base import Feed

Reference = Callable[[str, Feed], dict[str, np.ndarray]]
CELLS = {"batch": 1, "height": 8, "width": 8}


def touched_the_gpu(bench: Bench) -> bool:
    return bool(bench.machine.memory) or "deserialise" in bench.machine.events


def test_a_size_without_an_engine_lists_the_built_ones_and_the_command(bench: Bench) -> None:
    for side in (64, 96):
        bench.build("unet", side)
    session = bench.open()
    device = f"--device {bench.flavour}"
    for call in (
        lambda: session.run(feed_of("unet", 128)),
        lambda: session.require({"batch": 1, "height": 16, "width": 16}),
    ):
        with pytest.raises(EngineNotBuilt) as error:
            call()
        assert f"there is no {bench.flavour} engine of unet for 128x128" in str(error.value)
        assert "built: 64x64; 96x96" in str(error.value)
        assert f"lightfill build {bench.bundle.root} --image-size 128x128" in str(error.value)
        assert device in str(error.value)
    assert not touched_the_gpu(bench)


@pytest.mark.parametrize("bench", ["rtx"], indirect=True)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"targets": ("sm120",)}, r"built for sm120, this GPU is sm89"),
        ({"version": "1.6.0.1"}, r"built by TensorRT 1\.6\.0\.1, installed is 1\.7\.1\.116"),
        ({"graph_sha256": "0" * 64}, r"the bundle's unet has changed since it was built"),
        ({"platform": "windows-amd64"}, r"built on windows-amd64"),
    ],
    ids=["GPU", "version", "graph", "platform"],
)
def test_an_engine_for_something_else_is_refused(
    bench: Bench, change: dict[str, Any], reason: str
) -> None:
    bench.build("unet", **change)
    with pytest.raises(EngineStale, match=reason + r".*build it again with `lightfill build .*`$"):
        bench.open().run(feed_of("unet"))
    assert not touched_the_gpu(bench)


@pytest.mark.parametrize("bench", ["tensorrt"], indirect=True)
def test_a_datacentre_engine_for_another_model_of_the_same_generation_is_refused(
    bench: Bench,
) -> None:
    bench.build("unet", targets=("sm89 NVIDIA L40S",))
    with pytest.raises(EngineStale, match=r"for sm89 NVIDIA L40S, this GPU is sm89 Simulated L4;"):
        bench.open().run(feed_of("unet"))
    assert not touched_the_gpu(bench)


@pytest.mark.parametrize("damage", ["flipped bit", "cut off", "gone", "record gone"])
def test_a_damaged_engine_is_refused(bench: Bench, damage: str) -> None:
    engine = bench.build("unet")
    content = bytearray(engine.plan.read_bytes())
    if damage == "flipped bit":
        content[100] ^= 1
        engine.plan.write_bytes(content)
    elif damage == "cut off":
        engine.plan.write_bytes(content[:-1])
    elif damage == "gone":
        engine.plan.unlink()
    else:
        engine.plan.with_suffix(".json").unlink()
    kind = EngineNotBuilt if damage == "record gone" else EngineCorrupt
    with pytest.raises(kind, match=r"build it (again )?with `lightfill build .*`$"):
        bench.open().run(feed_of("unet"))
    assert "deserialise" not in bench.machine.events
    assert bench.machine.used() == 0


def test_a_plan_that_tensorrt_does_not_read_is_an_error_with_its_words(bench: Bench) -> None:
    bench.build("unet", content=b"not a plan")
    session = bench.open()
    for _ in range(2):
        with pytest.raises(SessionError, match=r"failed while loading unet: .*magicTag.*doctor"):
            session.run(feed_of("unet"))
    assert bench.machine.used() == 0


@pytest.mark.parametrize("bench", ["rtx"], indirect=True)
@pytest.mark.parametrize(
    ("bits", "kind", "words"),
    [
        (1 | 2, EngineStale, r"refuses the engine of unet here \(VERSION_MISMATCH, UNSUPPORTED_CC"),
        (16, DeviceOutOfMemory, r"^Simulated L4 has no 65536 bytes of GPU memory left for unet;"),
    ],
)
def test_rtx_tells_from_the_header_what_it_will_not_load(
    bench: Bench, bits: int, kind: type[Exception], words: str
) -> None:
    bench.build("unet")
    bench.machine.diagnosis = bits
    with pytest.raises(kind, match=words):
        bench.open().run(feed_of("unet"))
    assert "deserialise" not in bench.machine.events


def test_an_execution_that_fails_leaves_the_session_usable(
    bench: Bench, reference: Reference
) -> None:
    bench.build("unet")
    session, feed = bench.open(), feed_of("unet")
    for _ in range(2):  # the first execution, and one that replays
        bench.machine.failing = "unet"
        with pytest.raises(SessionError, match=r"simulated"):
            session.run(feed)
        bench.machine.failing = None
        np.testing.assert_array_equal(
            session.run(feed)["prediction"], reference("unet", feed)["prediction"]
        )


SPARE = 1 << 15


@pytest.mark.parametrize("place", ["weights", "tensors", "activations", "pinned"])
def test_memory_that_lacks_is_freed_reported_and_the_session_stays_usable(
    bench: Bench, reference: Reference, place: str
) -> None:
    weights, activations = 1 << 16, 1 << 14
    bench.build("unet", weights=weights, activations=activations)
    session, feed = bench.open(), feed_of("unet")
    tensors = sum(array.nbytes for array in feed.values()) + feed["sample"].nbytes
    sample = feed["sample"].nbytes
    room, wanted = {
        "weights": (weights - 1, weights),
        "tensors": (weights + sample - 1, sample),
        "activations": (weights + tensors + activations - 1, activations),
        "pinned": (1 << 30, sample),
    }[place]
    bench.machine.capacity = room
    bench.machine.pinned_capacity = sample - 1 if place == "pinned" else 1 << 30
    kind = "page-locked host memory" if place == "pinned" else "GPU memory"
    for _ in range(2):
        with pytest.raises(
            DeviceOutOfMemory, match=rf"^Simulated L4 has no \d+ bytes of {kind} "
        ) as e:
            session.run(feed)
        assert e.value.wanted == wanted
        assert f"no {wanted} bytes" in str(e.value)
        assert "smaller image_size" in str(e.value)
        assert bench.machine.used(None) == 0 or place == "activations"
        assert bench.machine.used() == 0 or place == "activations"
    bench.machine.capacity = bench.machine.pinned_capacity = 1 << 30
    np.testing.assert_array_equal(
        session.run(feed)["prediction"], reference("unet", feed)["prediction"]
    )


def test_memory_that_lacks_is_taken_from_the_least_recently_used(
    bench: Bench, reference: Reference
) -> None:
    for side in (64, 96, 128):
        bench.build("unet", side, weights=1 << 20, activations=1 << 16)
    session = bench.open()
    bench.machine.capacity = 5 << 19  # two engines and a half
    for side in (64, 96, 64, 128, 64, 96):
        feed = feed_of("unet", side)
        np.testing.assert_array_equal(
            session.run(feed)["prediction"], reference("unet", feed)["prediction"]
        )
    # 96 made room for 128, being used longer ago than 64; then 128 for 96
    assert bench.machine.events.count("loaded") == 4


def test_a_budget_evicts_before_memory_lacks(bench: Bench, reference: Reference) -> None:
    for side in (64, 96):
        bench.build("unet", side, weights=1 << 20, activations=1 << 16)
    budget = 3 << 19
    session = bench.open(vram_budget_bytes=budget)
    most = 0
    for side in (64, 96, 64):
        feed = feed_of("unet", side)
        np.testing.assert_array_equal(
            session.run(feed)["prediction"], reference("unet", feed)["prediction"]
        )
        most = max(most, bench.machine.used())
    assert bench.machine.events.count("deserialise") == 3
    assert most <= budget


def with_two_unets(bundle: Bundle) -> Bundle:
    """The embedded model as if 4 and 8 steps had UNets of their own, as SDXL-Lightning's have."""
    components = {"unet-4step": bundle.component("unet"), "unet-8step": bundle.component("unet")}
    steps = {
        count: bundle.unet(count).model_copy(update={"component": f"unet-{count}step"})
        for count in (4, 8)
    }
    changes = {"components": components, "steps": steps}
    return Bundle(bundle.root, bundle.manifest.model_copy(update=changes))


@pytest.mark.parametrize(("budget", "loaded"), [(5 << 19, 2), (3 << 19, 4)])
def test_unets_of_several_step_counts_are_kept_or_evicted_as_the_budget_says(
    bench: Bench, reference: Reference, budget: int, loaded: int
) -> None:
    bench.store = EngineStore.of(with_two_unets(bench.bundle), bench.store.root)
    names = ["unet-4step", "unet-8step"]
    for name in names:
        bench.build(name, weights=1 << 20)
    sessions = [bench.open(name, vram_budget_bytes=budget) for name in names]
    for seed in range(2):
        for session in sessions:
            feed = feed_of("unet", seed=seed)
            np.testing.assert_array_equal(
                session.run(feed)["prediction"], reference("unet", feed)["prediction"]
            )
            assert bench.machine.used() <= budget
    assert bench.machine.events.count("deserialise") == loaded


def test_an_engine_larger_than_the_budget_is_refused(bench: Bench) -> None:
    bench.build("unet", weights=1 << 20)
    session = bench.open(vram_budget_bytes=1 << 19)
    with pytest.raises(DeviceOutOfMemory, match=r"for unet within the budget; .*vram_budget_bytes"):
        session.run(feed_of("unet"))
    assert bench.machine.used() == 0


def test_freed_activations_shrink_to_what_is_left(bench: Bench) -> None:
    bench.build("unet", 64, activations=1 << 12)
    bench.build("vae_decoder", 64, activations=1 << 20)
    unet, decoder = bench.open("unet"), bench.open("vae_decoder")
    unet.run(feed_of("unet"))
    decoder.run(feed_of("vae_decoder"))
    decoder.close()
    unet.run(feed_of("unet"))
    assert bench.machine.used() < 1 << 18


@pytest.mark.parametrize("value", [0, -1, 1.5, "6 GB", True])
def test_budgets_that_are_none_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^vram_budget_bytes: must be"):
        SessionOptions(vram_budget_bytes=value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engines": 3}, r"^engines: 3 is no path; pass a directory, or None$"),
        ({"build_missing": "yes"}, r"^build_missing: must be True or False, got 'yes'$"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Inpainter.open(**options)


def test_a_missing_engine_is_built_where_that_was_asked_for(
    bench: Bench, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def build(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(words)
        bench.build("unet", 64)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", build)
    session, feed = bench.open(build_missing=True), feed_of("unet")
    session.require(CELLS)
    np.testing.assert_array_equal(
        session.run(feed)["prediction"], reference("unet", feed)["prediction"]
    )
    assert len(commands) == 1
    assert commands[0][:5] == [sys.executable, "-P", "-m", "lightfill", "build"]
    assert commands[0][6:8] == ["--image-size", "64x64"]
    assert commands[0][commands[0].index("--device") + 1] == bench.flavour
    assert commands[0][commands[0].index("--engines") + 1] == str(bench.store.root)


def test_a_build_that_fails_says_what_the_builder_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda words, **_: subprocess.CompletedProcess(
            words, 1, "", "building unet 64x64\nerror: no disk\n"
        ),
    )
    with pytest.raises(BuildFailed, match=r"\(error: no disk\); run `lightfill build .*` to see"):
        bench.open(build_missing=True).require(CELLS)


def test_without_a_driver_every_device_says_so(bench: Bench) -> None:
    bench.machine.gpus = 0
    with pytest.raises(
        DeviceUnavailable,
        match=r"^no NVIDIA GPU can be used here \(simulated: .*\); install NVIDIA",
    ):
        require_device(bench.flavour)


def test_a_gpu_that_is_not_there_is_refused(bench: Bench) -> None:
    with pytest.raises(DeviceUnavailable, match=r"device_index 3 names no GPU: this machine has 1"):
        bench.open(device_index=3)


@pytest.mark.parametrize(
    ("flavour", "package"), [("tensorrt", "tensorrt"), ("rtx", "tensorrt_rtx")]
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, flavour: str, package: str
) -> None:
    install(monkeypatch, Machine(), flavours=())
    with pytest.raises(
        DeviceUnavailable,
        match=rf"^{package} is not installed .*; `pip install 'lightfill\[{flavour}\]'`$",
    ):
        open_session(Bundle.open(), "unet", flavour)


@pytest.mark.parametrize("bench", ["tensorrt"], indirect=True)  # RTX's are built for any GPU
def test_engines_are_built_on_the_gpu_that_will_run_them(bench: Bench) -> None:
    bench.machine.gpus = 2
    with pytest.raises(EngineNotBuilt, match=r"--device tensorrt --device-index 1 --engines"):
        bench.open(device_index=1).require(CELLS)
    with pytest.raises(EngineNotBuilt, match=r"--device tensorrt --engines"):
        bench.open().require(CELLS)


def test_cuda_python_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(DeviceUnavailable, match=r"^cuda-python is not installed .*pip install"):
        require_device(bench.flavour)


def test_rtx_on_a_datacentre_gpu_names_the_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Machine(name="NVIDIA H100 80GB HBM3", capability=(9, 0)))
    with pytest.raises(
        DeviceUnavailable,
        match=r"no kernels for NVIDIA H100 80GB HBM3 \(sm90; it has sm75, .*use --device tensorrt$",
    ):
        require_device("rtx")
    require_device("tensorrt")


def test_low_memory_is_refused_with_what_to_do_instead(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match=r"^low_memory: .* set vram_budget_bytes instead$"):
        Inpainter.open(device=bench.flavour, low_memory=True, engines=bench.store.root)


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys; from lightfill import Inpainter; Inpainter.open(); "
        "print([name for name in sys.modules if name.startswith(('cuda', 'tensorrt'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_torch_is_not_imported(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refusing(name: str, *arguments: Any) -> Any:
        assert name.partition(".")[0] not in {"torch", "pycuda"}, name
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refusing)
    bench.build("unet")
    bench.open().run(feed_of("unet"))


def test_the_store_of_a_session_may_lie_elsewhere(bench: Bench, tmp_path: Path) -> None:
    bench.build("unet")
    with pytest.raises(EngineNotBuilt, match=rf"--engines {tmp_path / 'other'}`$"):
        bench.open(engines=tmp_path / "other").require(CELLS)
