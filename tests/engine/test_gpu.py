"""On a machine with an NVIDIA GPU (`pytest -m gpu`): the commands a GPU's owner runs, and the API.

Not yet run on a GPU: no machine this was written on had one. What can be checked without one is
checked with a simulated GPU (tests/support/simulated_gpu).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from demo_quality import SHARES, TOLERANCE, share_of_asked_colours
from engine_bundles import copied_demo

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import DeviceUnavailable
from lightfill.engine.pipeline import Inpainter
from lightfill.engine.sessions import ENGINE_DEVICES, require_device

pytestmark = pytest.mark.gpu  # needs an NVIDIA GPU and lightfill[cuda], [tensorrt] or [rtx]

DEVICES = ["cuda", *ENGINE_DEVICES]
SIZES = ("--image-size", "256x256", "--image-size", "192x320")
PARTS = ["text_encoder", "text_encoder_2", "vae_encoder", "unet", "vae_decoder", "picture"]


def lightfill(*arguments: object) -> str:
    """What the command prints; its status must be 0."""
    words = [sys.executable, "-P", "-m", "lightfill", *map(str, arguments)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Each device that this machine has; the reason is shown where it lacks one."""
    try:
        require_device(request.param)
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    return str(request.param)


@pytest.fixture(scope="module")
def built(device: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded model with engines for this GPU, made by the command, where it needs any."""
    bundle = copied_demo(tmp_path_factory.mktemp(device))
    if device in ENGINE_DEVICES:
        lightfill("build", bundle.root, *SIZES, "--device", device)
    return bundle


def test_engines_built_for_this_gpu_are_usable_here(built: Bundle, device: str) -> None:
    if device not in ENGINE_DEVICES:
        pytest.skip(f"{device} runs graphs, not engines")
    found = json.loads(lightfill("engines", built.root, "--json"))
    assert [each["why_not_here"] for each in found] == [None] * 8  # of 3 parts one per size


def test_lightfill_verify_finds_that_the_device_agrees_with_the_cpu(
    built: Bundle, device: str
) -> None:
    report = json.loads(lightfill("verify", built.root, *SIZES, "--device", device, "--json"))
    assert (report["device"], report["passed"]) == (device, True)
    assert list(report["sizes"]) == ["256x256", "192x320"]
    for size, parts in report["sizes"].items():
        for part in parts:
            print(f"{device} {size} {part['part']}: {part['psnr_db']:.1f} dB")
        assert [part["part"] for part in parts] == PARTS


@pytest.mark.parametrize("strength", SHARES)
def test_the_embedded_model_paints_the_asked_colours(
    built: Bundle, device: str, strength: float
) -> None:
    with Inpainter.open(built.root, device=device) as inpainter:
        share = share_of_asked_colours(inpainter, strength)
    print(f"{device}, strength {strength}: {share:.3f} of the asked colours")
    assert share >= SHARES[strength] - TOLERANCE


def test_lightfill_verify_builds_what_is_missing(device: str, tmp_path: Path) -> None:
    if device not in ENGINE_DEVICES:
        pytest.skip(f"{device} runs graphs, not engines")
    given: tuple[Any, ...] = ("--device", device, "--engines", tmp_path, "--build-missing")
    assert json.loads(lightfill("verify", "--image-size", "64x64", *given, "--json"))["passed"]
    assert len(list(tmp_path.rglob("*.plan"))) == 5


def test_the_latency_benchmark_runs(built: Bundle, device: str, tmp_path: Path) -> None:
    artefact = tmp_path / "latency.json"
    said = lightfill(
        "bench", "--bundle", built.root, "--device", device, "--image-size", "256x256",
        "--runs", 3, "--json", artefact,
    )  # fmt: skip
    print(said)
    found = json.loads(artefact.read_text("utf-8"))
    assert f'"{device}"' in json.dumps(found)
    if device in ENGINE_DEVICES:
        assert found["device_execution"]  # by CUDA's own events


def test_one_gpu_device_is_here_at_least() -> None:
    """Run on a machine without one, `pytest -m gpu` must not look as if it had passed."""
    reasons = []
    for name in DEVICES:
        try:
            require_device(name)
        except DeviceUnavailable as error:
            reasons.append(str(error))
        else:
            return
    pytest.fail("; ".join(reasons))
