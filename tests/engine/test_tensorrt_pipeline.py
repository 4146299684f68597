"""The whole pipeline on a simulated GPU: the pictures of the CPU, engines asked for in time."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from simulated_gpu import Bench, add_engines

from lightfill.engine import cli
from lightfill.engine.errors import EngineNotBuilt, EngineStale
from lightfill.engine.pipeline import Inpainter
from lightfill.engine.sessions import base

PHOTO = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
MASK = np.zeros((90, 120), np.uint8)
MASK[30:70, 40:90] = 255
SMALL: dict[str, Any] = {"image_size": (64, 64), "steps": 4, "seed": 7, "prompt": "a red ball"}
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def half_cpu(private_cache: None) -> Iterator[Inpainter]:
    """The CPU session of the float16 graphs, which engines are built from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(base.ARITHMETIC, "cpu", "float16")
        inpainter = Inpainter.open(batch_size=2)
        inpainter._components.session("unet")  # now, while that arithmetic is the CPU's
    with inpainter:
        yield inpainter


def opened(bench: Bench, **options: Any) -> Inpainter:
    return Inpainter.open(device=bench.flavour, engines=bench.store.root, **options)


def painted(inpainter: Inpainter, **options: Any) -> np.ndarray:
    result = inpainter(PHOTO, MASK, **(SMALL | options))
    return np.stack([np.asarray(image) for image in result.images])


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((64, 64), {}),
        ((64, 64), {"strength": 1.0, "steps": 8}),
        ((96, 96), {"image_size": (90, 70), "num_images": 3}),
        ((64, 64), {"crop_to_mask": 0.4, "composite": False}),
        ((128, 96), {"image_size": "source"}),
    ],
    ids=["4 steps", "8 steps, pure noise", "odd size, 3 pictures", "crop to mask", "source size"],
)
def test_pictures_equal_the_cpus_of_the_same_graphs_bit_for_bit(
    bench: Bench, half_cpu: Inpainter, size: tuple[int, int], options: dict[str, Any]
) -> None:
    """The float16 graph is what an engine is built from, so that a difference is the driving's."""
    add_engines(bench.store, bench.runtime, size, batches=(1, 2))
    with opened(bench, batch_size=2) as inpainter:
        for _ in range(2):  # the second request replays graphs and remembers the prompt
            assert (painted(inpainter, **options) == painted(half_cpu, **options)).all()


def test_pictures_are_the_float32_ones_but_for_float16(
    bench: Bench, demo_inpainter: Inpainter
) -> None:
    """What float16 arithmetic changes in this picture is one level of 255 at most."""
    add_engines(bench.store, bench.runtime, (64, 64))
    with opened(bench) as inpainter:
        difference = painted(inpainter).astype(float) - painted(demo_inpainter)
    psnr = 10 * math.log10(255**2 / np.mean(difference**2))
    print(
        f"simulated {bench.flavour} against cpu: {psnr:.1f} dB, {abs(difference).max():.0f} levels"
    )
    assert psnr > 60
    assert abs(difference).max() <= 1


def test_text_is_uploaded_once_a_request(bench: Bench) -> None:
    add_engines(bench.store, bench.runtime, (64, 64))
    with opened(bench) as inpainter:
        painted(inpainter, strength=1.0)
        bench.machine.events.clear()
        painted(inpainter, strength=1.0, seed=8)  # the prompt is remembered, noise is new
    uploaded = [event for event in bench.machine.events if event.startswith("upload")]
    steps = [f"upload {4 * 8 * 8 * 2}", "upload 4"] * 4  # latents and timestep
    assert sorted(uploaded) == sorted([*steps, f"upload {4 * 8 * 8 * 2}"])  # and the decoder's


def test_a_size_without_engines_is_refused_before_the_photo_is_decoded(bench: Bench) -> None:
    add_engines(bench.store, bench.runtime, (64, 64))
    with (
        opened(bench) as inpainter,
        pytest.raises(EngineNotBuilt, match=r"for 128x64 .*built: 64x64.*--image-size 128x64"),
    ):
        inpainter(b"no picture", b"no mask", "a ball", image_size=(128, 64))
    assert bench.machine.memory == []


def test_every_batch_a_request_makes_needs_its_engines(bench: Bench) -> None:
    add_engines(bench.store, bench.runtime, (64, 64), batches=(2,))
    with opened(bench, batch_size=2) as inpainter:
        painted(inpainter, num_images=2)
        with pytest.raises(EngineNotBuilt, match=r"^there is no \w+ engine of \w+ for 64x64 "):
            painted(inpainter, num_images=3)  # batches of 2 and 1


def test_the_photos_own_size_is_checked_when_it_is_known(bench: Bench) -> None:
    add_engines(bench.store, bench.runtime, (64, 64))
    with opened(bench) as inpainter, pytest.raises(EngineNotBuilt, match="for 128x96"):
        painted(inpainter, image_size="source")
    assert bench.machine.memory == []


def test_a_stale_engine_of_any_part_is_refused_before_work(bench: Bench) -> None:
    add_engines(bench.store, bench.runtime, (64, 64))
    (decoder,) = bench.store.root.rglob("vae_decoder*.plan")
    decoder.unlink()
    decoder.with_suffix(".json").unlink()
    bench.build("vae_decoder", weights_sha256="0" * 64)
    with opened(bench) as inpainter, pytest.raises(EngineStale, match="vae_decoder has changed"):
        inpainter(b"no picture", b"no mask", "a ball", image_size=(64, 64))


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def inpaint(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """`lightfill inpaint` of the example on the bench's device, in this process."""

    def run(*options: object) -> Ran:
        arguments = [
            "lightfill", "inpaint", "--image", EXAMPLES / "coffee.png", "--mask",
            EXAMPLES / "coffee-mask.png", "--prompt", "a green ball", "--image-size", "64x64",
            "--seed", 1, "--output", tmp_path / "out.png", "--device", bench.flavour,
            "--engines", bench.store.root, *options,
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capfd.readouterr()
        return Ran(int(stopped.value.code or 0), captured.out, captured.err)

    return run


def test_the_command_paints(bench: Bench, inpaint: Run, tmp_path: Path) -> None:
    add_engines(bench.store, bench.runtime, (64, 64))
    ran = inpaint("--json", "--vram-budget", "1")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["device"] == bench.flavour
    assert (tmp_path / "out.png").exists()


def damage(bench: Bench) -> None:
    (plan,) = bench.store.root.rglob("unet*.plan")
    content = bytearray(plan.read_bytes())
    content[7] ^= 1
    plan.write_bytes(content)


def for_another_gpu(bench: Bench) -> None:
    bench.machine.capability = (12, 0)


def of_another_version(bench: Bench) -> None:
    rebuilt(bench, version="1.6.0.1")


def of_another_graph(bench: Bench) -> None:
    rebuilt(bench, graph_sha256="0" * 64)


def unreadable(bench: Bench) -> None:
    rebuilt(bench, content=b"no plan")


def rebuilt(bench: Bench, **changes: Any) -> None:
    for path in bench.store.root.rglob("unet*"):
        path.unlink()
    bench.build("unet", 64, **changes)


def failing(bench: Bench) -> None:
    bench.machine.failing = "unet"


def without_memory(bench: Bench) -> None:
    bench.machine.capacity = 100


def without_a_gpu(bench: Bench) -> None:
    bench.machine.gpus = 0


def without_tensorrt(bench: Bench) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        sys.modules[name] = None  # type: ignore[assignment] # the bench's own patch puts it back


def without_cuda_python(bench: Bench) -> None:
    sys.modules["cuda.bindings.runtime"] = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("harm", "options", "status", "words"),
    [
        (None, ["--image-size", "96x64"], 1, "for 96x64 (built: 64x64); build it with `lightfill"),
        (damage, [], 1, "not as recorded; delete it with `lightfill engines"),
        (for_another_gpu, [], 1, "cannot be used: built for sm89"),
        (of_another_version, [], 1, "cannot be used: built by TensorRT 1.6.0.1, installed is "),
        (of_another_graph, [], 1, "cannot be used: the bundle's unet has changed since it was bu"),
        (unreadable, [], 1, "TensorRT failed while loading unet: "),
        (failing, [], 1, "TensorRT failed while running unet: "),
        (without_tensorrt, [], 1, " is not installed (import of tensorrt"),
        (without_cuda_python, [], 1, "cuda-python is not installed ("),
        (without_memory, [], 1, "has no 65536 bytes of GPU memory left for text_encoder; close"),
        (without_a_gpu, [], 1, "no NVIDIA GPU can be used here (simulated: cudaErrorNoDevice)"),
        (None, ["--low-memory"], 2, "set vram_budget_bytes instead"),
        (None, ["--vram-budget", "0"], 2, "vram_budget: must be from 0.001"),
        (None, ["--vram-budget", "0.001"], 1, "within the budget; close other programs"),
    ],
    ids=[
        "size",
        "damaged",
        "GPU",
        "version",
        "graph",
        "unreadable",
        "failing",
        "no TensorRT",
        "no cuda-python",
        "memory",
        "no GPU",
        "low memory",
        "no budget",
        "budget",
    ],
)
def test_errors_end_the_command_with_one_sentence_and_a_status(
    bench: Bench,
    inpaint: Run,
    harm: Callable[[Bench], None] | None,
    options: list[str],
    status: int,
    words: str,
) -> None:
    add_engines(bench.store, bench.runtime, (64, 64), weights=1 << 16 if harm else 1 << 20)
    if harm:
        harm(bench)
    ran = inpaint(*options)
    assert ran.status == status
    assert words in ran.err
    assert ran.err.startswith("error: ")
    assert len(ran.err.strip().splitlines()) == 1


@pytest.mark.parametrize("bench", ["tensorrt"], indirect=True)  # sm42 is refused earlier by RTX
def test_missing_engines_are_built_by_the_real_command_on_request(
    bench: Bench, inpaint: Run
) -> None:
    """The child process sees no simulation: what it says is what `lightfill build` says there."""
    add_engines(bench.store, bench.runtime, (64, 64))
    bench.machine.capability = (4, 2)
    ran = inpaint("--build-missing")
    assert ran.status == 1
    assert "engines that were missing could not be built (error: " in ran.err
    assert "run `lightfill build" in ran.err
