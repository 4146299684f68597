"""docs/inpainting.md: its snippet runs and leaves the pictures it promises."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/inpainting.md").read_text(encoding="utf-8")


def test_the_snippet_saves_a_preview_of_every_step(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    subprocess.run([sys.executable, "-W", "error", "-c", snippet], cwd=tmp_path, check=True)
    for step in range(1, 5):
        with Image.open(tmp_path / f"out/step-{step}.png") as preview:
            assert preview.size == (32, 32)
    with Image.open(tmp_path / "out/ball.png") as picture:
        assert picture.size == (600, 400)
