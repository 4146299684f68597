"""Copy as code: the programs the page gives are run, and make the picture the page made."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser
from running_server import RunningServer

from .conftest import ROOT, Visit, required, tabs

CLIENTS = ROOT / "tests/clients/node_modules"
AWKWARD = (
    "a \"green\" ball; $(exit 7) `exit 8` $HOME \\n {curly} %s 'quoted' é 球 🟢\n"
    "</x> REQUEST\nREQUEST"
)
"""What a shell, Python and JavaScript could each stumble over, on several lines."""


def saved(visit: Visit, folder: Path, language: str) -> str:
    """The program in that language; its two files are saved into `folder`."""
    page = visit.page
    page.click("#code-open")
    for link in ("#code-photo", "#code-mask"):
        with page.expect_download() as saving:
            page.click(link)
        saving.value.save_as(folder / saving.value.suggested_filename)
    page.click(f"#language-{language}")
    code = page.locator("#code-text").inner_text()
    page.click("#code-close")
    return code


@pytest.fixture(scope="module")
def made(chromium: Browser, painting_server: RunningServer) -> Iterator[Visit]:
    """A tab with a finished picture of an awkward prompt, as PNG: the same pixels every time."""
    with tabs(chromium) as visiting:
        visit = visiting(painting_server)
        _paint(visit)
        yield visit


def _paint(visit: Visit) -> None:
    page = visit.page
    visit.example()
    page.fill("#prompt", AWKWARD)
    page.locator("summary").click()
    page.select_option("#format", "png")
    page.locator("#feather").fill("3")
    page.check("#steps input[value='2']", force=True)
    visit.generate()


def the_pages_picture(visit: Visit, folder: Path) -> np.ndarray:
    with visit.page.expect_download() as saving:
        visit.page.click("#download")
    saving.value.save_as(folder / "page.png")
    return opened(folder / "page.png")


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def run(command: list[Any], folder: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAL_")}
    ran = subprocess.run(
        command, cwd=folder, env=kept | environment, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_python_program_makes_the_same_picture(made: Visit, tmp_path: Path) -> None:
    (tmp_path / "paint.py").write_text(saved(made, tmp_path, "python"), encoding="utf-8")
    printed = run([sys.executable, "-W", "error", "paint.py"], tmp_path)
    assert f"seed {made.page.input_value('#seed')}" in printed
    assert "step 1/1" in printed or "step 2/2" in printed
    assert (opened(tmp_path / "result-1.png") == the_pages_picture(made, tmp_path)).all()


def test_the_javascript_program_makes_the_same_picture(made: Visit, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        required("node", "apt-get install -y nodejs npm")
    if not (CLIENTS / "@fal-ai/client").is_dir():
        required("@fal-ai/client", "npm ci --prefix tests/clients")
    (tmp_path / "node_modules").symlink_to(CLIENTS)
    (tmp_path / "paint.mjs").write_text(saved(made, tmp_path, "javascript"), encoding="utf-8")
    printed = run([node, "paint.mjs"], tmp_path)
    assert f"seed {made.page.input_value('#seed')}" in printed
    assert (opened(tmp_path / "result-1.png") == the_pages_picture(made, tmp_path)).all()


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_curl_command_is_answered_with_the_same_seed_and_prompt(
    made: Visit, tmp_path: Path, shell: str
) -> None:
    if shutil.which("curl") is None:
        required("curl", "apt-get install -y curl")
    code = saved(made, tmp_path, "curl")
    answer = run([shutil.which(shell), "-euc", code], tmp_path)
    # The page's own parser: what the shell sent must be what the page said.
    output = made.page.evaluate("JSON.parse", answer)
    assert output["prompt"] == AWKWARD
    assert output["seed"] == int(made.page.input_value("#seed"))
    assert output["images"][0]["content_type"] == "image/png"


def test_a_key_is_read_from_the_environment_where_the_server_asks_for_one(
    made: Visit, tmp_path: Path
) -> None:
    script = """async () => {
        const code = await import("/page/code.js");
        const photo = { name: "photo.png", type: "image/png" };
        const languages = ["curl", "python", "javascript"];
        return languages.map((each) => code[each]({ prompt: "x" }, photo, true));
    }"""
    curl, python, javascript = made.page.evaluate(script)
    assert '--header "authorization: Key $FAL_KEY"' in curl
    assert "SyncClient()" in python
    assert "process.env.FAL_KEY" in javascript


def test_the_code_is_copied(made: Visit) -> None:
    page = made.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#code-open")
    page.click("#code-copy")
    page.wait_for_selector("#code-copy:has-text('Copied')")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.replace("\r\n", "\n") == page.locator("#code-text").text_content()
