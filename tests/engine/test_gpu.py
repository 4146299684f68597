"""On a machine with an NVIDIA GPU (`pytest -m gpu`): the devices it has agree with the CPU.

Not yet run on a GPU: no machine this was written on had one. What can be checked without one is
checked with a simulated GPU (tests/support/simulated_gpu).
"""

from pathlib import Path

import pytest

from lightfill.bench import latency, report
from lightfill.bench.own_side import EngineOptions
from lightfill.bench.workload import Workload
from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import DeviceUnavailable
from lightfill.engine.sessions import ENGINE_DEVICES, SessionOptions, require_device
from lightfill.engine.verify import verify

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.gpu  # needs an NVIDIA GPU and lightfill[cuda], [tensorrt] or [rtx]


def require(device: str) -> None:
    try:
        require_device(device)
    except DeviceUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("size", [(256, 256), (192, 320)], ids=["natural", "landscape"])
@pytest.mark.parametrize("device", ["cuda", "tensorrt", "rtx"])
def test_a_device_agrees_with_the_cpu(device: str, size: tuple[int, int], tmp_path: Path) -> None:
    require(device)
    options = SessionOptions(engines=tmp_path, build_missing=True)
    found = verify(Bundle.open(), device, size, options)
    for part in found:
        print(f"{device} {part.part}: {part.psnr_db:.1f} dB, {part.max_abs_error:.2g}")
    assert [part.part for part in found if not part.passed] == []


def test_one_gpu_device_is_here_at_least() -> None:
    """Run on a machine without one, `pytest -m gpu` must not look as if it had passed."""
    reasons = []
    for device in ("cuda", "tensorrt", "rtx"):
        try:
            require_device(device)
        except DeviceUnavailable as error:
            reasons.append(str(error))
        else:
            return
    pytest.fail("; ".join(reasons))


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "rtx"])
def test_the_latency_benchmark_runs(device: str, tmp_path: Path) -> None:
    """Prints the table; engines are timed by the GPU's own clock as well."""
    require(device)
    options = EngineOptions(device=device, engines=tmp_path / "engines", build_missing=True)
    files = {"image": EXAMPLES / "coffee.png", "mask": EXAMPLES / "coffee-mask.png"}
    workload = Workload(**files, size=(256, 256), steps=4, strength=0.95)
    latency.check(options, workload)
    found = latency.measure(options, workload, latency.Plan(), tmp_path / "picture.png")
    print(report.latency(found))
    assert latency.discrepancy(found.runs) <= 0.05
    assert found.total.count == 10
    if device in ENGINE_DEVICES:
        assert set(found.device_execution) == set(Bundle.open().manifest.components)
        calls = found.device_execution["unet"]
        assert calls.count == 10 * found.effective_steps
        step = next(stage.per_call for stage in found.stages if stage.name == "unet")
        assert step is not None
        assert 0 < calls.median < step.median  # the host's share of a call is not in it
