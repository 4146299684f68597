"""docs/fal-python.md: its snippets run, each in a fresh interpreter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/fal-python.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run_and_print(snippet: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet],
        cwd=tmp_path,
        env={**os.environ, "LIGHTFILL_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout


def test_every_setting_it_names_exists() -> None:
    from lightfill.engine.fal.settings import Settings

    fields = set(Settings.__dataclass_fields__)
    named = set(re.findall(r"`(\w+_(?:url|length|s))`", PAGE))
    assert {"public_url", "max_queue_length", "file_retention_s"} <= named & fields
    assert named - fields == {"webhook_url", "image_url", "mask_url"}
