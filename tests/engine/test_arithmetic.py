"""Float16 graphs through the whole pipeline: on the CPU here, on a GPU where there is one."""

from pathlib import Path

import numpy as np
import pytest

from lightfill import Inpainter
from lightfill.engine.errors import DeviceUnavailable
from lightfill.engine.sessions import base, require_device

EXAMPLES = Path(__file__).parents[2] / "examples"


def paint(inpainter: Inpainter) -> np.ndarray:
    result = inpainter(
        EXAMPLES / "coffee.png", EXAMPLES / "coffee-mask.png", "a green ball",
        image_size=(256, 256), crop_to_mask=0.3, strength=1, seed=1,
    )  # fmt: skip
    return np.asarray(result.image, np.float64)[result.mask]


def psnr(picture: np.ndarray, reference: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((picture - reference) ** 2)))


def test_float16_graphs_paint_the_float32_picture(
    demo_inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = paint(demo_inpainter)  # first: its UNet is loaded when it first paints
    monkeypatch.setitem(base.ARITHMETIC, "cpu", "float16")
    with Inpainter.open() as inpainter:
        measured = psnr(paint(inpainter), reference)
    print(f"float16 against float32 inside the mask: {measured:.1f} dB")
    assert 30 < measured < 90  # not equal either: the float16 graphs really ran


@pytest.mark.gpu  # needs an NVIDIA GPU and lightfill[cuda]
def test_cuda_paints_the_cpu_picture(demo_inpainter: Inpainter) -> None:
    try:
        require_device("cuda")
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    with Inpainter.open(device="cuda") as inpainter:
        measured = psnr(paint(inpainter), paint(demo_inpainter))
    print(f"cuda against cpu inside the mask: {measured:.1f} dB")
    assert measured > 30
