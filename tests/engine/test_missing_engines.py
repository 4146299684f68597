"""`build_missing` with the real builder: it needs no GPU, and the session finds what it made."""

from pathlib import Path

import numpy as np
import pytest
from simulated_gpu import Machine, install

from lightfill.engine.engine_key import installed_version
from lightfill.engine.errors import EngineNotBuilt, ImageLoadError
from lightfill.engine.pipeline import Inpainter


@pytest.mark.slow  # the demo model's five engines are really built
def test_missing_engines_are_really_built_and_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    machine = install(monkeypatch, Machine(), rtx_version=installed_version("rtx"))

    def ask(size: tuple[int, int], *, build_missing: bool) -> None:
        """Refused for its photo, unless engines are missing, which is found out before."""
        with Inpainter.open(device="rtx", engines=tmp_path, build_missing=build_missing) as opened:
            opened(b"no picture", np.ones((9, 9)), "a ball", image_size=size)

    with pytest.raises(EngineNotBuilt):
        ask((64, 64), build_missing=False)
    with pytest.raises(ImageLoadError):
        ask((64, 64), build_missing=True)
    built = sorted(path.name.partition("-")[0] for path in tmp_path.rglob("*.plan"))
    assert built == ["text_encoder", "text_encoder_2", "unet", "vae_decoder", "vae_encoder"]
    with pytest.raises(ImageLoadError):
        ask((64, 64), build_missing=False)
    with pytest.raises(EngineNotBuilt, match="built: 64x64"):
        ask((96, 64), build_missing=False)
    assert machine.live() == []
