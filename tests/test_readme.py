"""README: its commands and snippets run, its picture is what the demo paints."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line.partition("#")[0].strip() for block in fenced("sh") for line in block.splitlines()]


@pytest.fixture
def beside_examples(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def environment() -> dict[str, str]:
    """This environment with the `lightfill` command of this interpreter first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("snippet", fenced("python"))
def test_python_snippets_run(snippet: str, beside_examples: Path) -> None:
    subprocess.run([sys.executable, "-c", snippet], cwd=beside_examples, check=True)
    assert list((beside_examples / "out").iterdir())


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("lightfill")])
def test_lightfill_commands_run(command: str, beside_examples: Path) -> None:
    subprocess.run(command, shell=True, cwd=beside_examples, env=environment(), check=True)


def test_the_first_screen_shows_a_picture_and_two_commands() -> None:
    first_screen = README.splitlines()[:20]
    assert any(line.startswith("![") for line in first_screen)
    assert COMMANDS[:2] == ["make demo", "make test"]


@pytest.mark.slow  # makes a fresh virtual environment and installs the package into it
def test_make_demo_in_a_clean_clone_paints_the_readme_picture(tmp_path: Path) -> None:
    clone = tmp_path / "clean clone"
    copy_tracked_files(clone)
    # make puts this run's own variables into the environment; a newcomer has none of them.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    ran = subprocess.run(
        ["make", "demo"], cwd=clone, env=clean, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for stage in ("text", "vae_encode", "unet", "vae_decode", "composite", "total"):
        assert re.search(rf"^ +{stage} .*ms$", ran.stdout, re.MULTILINE)
    with Image.open(clone / "out/demo.png") as picture:
        assert picture.size == (600, 400)
    packages = list((clone / ".venv").glob("lib/python*/site-packages/*"))
    assert not [path for path in packages if re.match("torch|diffusers|transformers", path.name)]
    with (
        Image.open(clone / "out/demo-strip.png") as painted,
        Image.open(ROOT / "docs/images/demo-strip.jpg") as shown,
    ):
        difference = np.asarray(painted, np.float32) - np.asarray(shown, np.float32)
    assert np.abs(difference).mean() < 3


def copy_tracked_files(target: Path) -> None:
    """What a clone of the working tree's state would hold."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.split(b"\0")  # fmt: skip
    for name in filter(None, names):
        source = ROOT / name.decode()
        if source.is_file():
            destination = target / name.decode()
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, destination)


def test_documentation_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "examples/README.md"]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
