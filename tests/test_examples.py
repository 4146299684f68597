"""Every example script runs as a person would run it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_runs_and_writes_a_picture(script: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", EXAMPLES / script]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout
    assert list((tmp_path / "out").glob("*.png"))
