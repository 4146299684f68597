"""On a machine with an NVIDIA GPU (`pytest -m gpu`): the devices it has agree with the CPU.

Not yet run on a GPU: no machine this was written on had one. What can be checked without one is
checked with a simulated GPU (tests/support/simulated_gpu).
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import DeviceUnavailable
from lightfill.engine.sessions import SessionOptions, require_device
from lightfill.engine.verify import verify

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


def test_the_latency_benchmark_runs() -> None:
    if find_spec("lightfill.bench.latency") is None:
        pytest.skip("this version has no latency benchmark yet")
    from lightfill.bench import latency

    latency.main()
