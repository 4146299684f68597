"""docs/fal-python.md: its snippets run, each in a fresh interpreter.

The one that names a server has one of this test.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running_server import running

from lightfill.engine.fal.settings import Settings
from lightfill.engine.pipeline import Inpainter

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/fal-python.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


SERVER = "http://127.0.0.1:8765"
WITH_SERVER = [snippet for snippet in SNIPPETS if SERVER in snippet]
ALONE = [snippet for snippet in SNIPPETS if SERVER not in snippet]


def printed(snippet: str, folder: Path) -> str:
    shutil.copytree(ROOT / "examples", folder / "examples")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet],
        cwd=folder,
        env={**os.environ, "LIGHTFILL_DATA_DIR": str(folder / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.parametrize("snippet", ALONE, ids=range(len(ALONE)))
def test_snippets_run_and_print(snippet: str, tmp_path: Path) -> None:
    assert printed(snippet, tmp_path)


@pytest.mark.parametrize("snippet", WITH_SERVER, ids=range(len(WITH_SERVER)))
def test_snippets_that_name_a_server(
    snippet: str, tmp_path: Path, demo_inpainter: Inpainter
) -> None:
    settings = Settings(data_dir=tmp_path / "served", port=0)
    with running(settings, inpainter=demo_inpainter) as server:
        assert printed(snippet.replace(SERVER, server.origin), tmp_path).startswith(server.origin)


def test_every_setting_it_names_exists() -> None:
    fields = set(Settings.__dataclass_fields__)
    named = set(re.findall(r"`(\w+_(?:url|length|s))`", PAGE))
    assert {"public_url", "max_queue_length", "file_retention_s"} <= named & fields
    assert named - fields == {"webhook_url", "image_url", "mask_url"}
