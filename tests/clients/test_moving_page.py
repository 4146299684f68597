"""docs/moving-from-fal.md: its server is started, and every snippet run before it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from running_server import running
from tls_terminator import terminating

from lightfill.engine.fal.settings import Settings
from lightfill.engine.pipeline import Inpainter

from .conftest import Node

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/moving-from-fal.md").read_text(encoding="utf-8")
SERVER = "http://127.0.0.1:8765"
PROXIED = "fill.example.org"


def fenced(language: str) -> list[str]:
    """The page's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


SHELL, PYTHON, JAVASCRIPT = fenced("sh"), fenced("python"), fenced("js")
SERVE, ENVIRONMENT, CURL = SHELL


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a reader who has installed lightfill with this interpreter."""
    first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    data = str(tmp_path_factory.mktemp("data"))
    return {**os.environ, "PATH": first, "FAL_KEY": "any:key", "LIGHTFILL_DATA_DIR": data}


@pytest.fixture(scope="module")
def origin(environment: dict[str, str]) -> Iterator[str]:
    """Where the page's own first command serves, on a port that is free."""
    process = subprocess.Popen(
        SERVE.split(), env={**environment, "LIGHTFILL_PORT": "0"}, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        found = re.search(r"serves (http://\S+) without keys", process.stderr.readline())
        assert found
        yield found[1]
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()


@pytest.fixture
def reader_s(tmp_path: Path) -> Path:
    """A directory with the pictures the page names."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def ran(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """What a command that must succeed prints."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("snippet", PYTHON, ids=["lightfill.fal", "fal-client"])
def test_python_snippets(
    snippet: str, origin: str, reader_s: Path, environment: dict[str, str]
) -> None:
    assert SERVER in snippet
    printed = ran(
        [sys.executable, "-c", snippet.replace(SERVER, origin)], reader_s, environment
    ).splitlines()
    assert printed[-1].startswith(f"{origin}/files/")
    assert "Completed(" in printed[-2]


@pytest.mark.parametrize("snippet", JAVASCRIPT, ids=["client", "serverless-client", "proxy"])
def test_javascript_snippets(
    snippet: str, origin: str, reader_s: Path, environment: dict[str, str], node: Node
) -> None:
    assert SERVER in snippet
    (reader_s / "node_modules").symlink_to(node.packages)
    (reader_s / "app.mjs").write_text(snippet.replace(SERVER, origin), encoding="utf-8")
    last = ran([node.executable, "app.mjs"], reader_s, environment).splitlines()[-1]
    assert last.startswith(f"{origin}/files/") or re.fullmatch(r"[0-9a-f-]{36} \d+", last)


def test_curl_snippet(origin: str, reader_s: Path, environment: dict[str, str]) -> None:
    assert SERVER in CURL
    printed = ran(["bash", "-ec", CURL.replace(SERVER, origin)], reader_s, environment)
    events = [line for line in printed.splitlines() if line.startswith("data:")]
    assert '"COMPLETED"' in events[-1]
    assert f'"url":"{origin}/files/' in printed.splitlines()[-1]


def test_environment_snippet(
    reader_s: Path,
    environment: dict[str, str],
    settings: Settings,
    demo_inpainter: Inpainter,
) -> None:
    """The variables, with a program of fal-client's that sends data URIs."""
    (reader_s / "app.py").write_text(
        """
import fal_client

arguments = {
    "image_url": fal_client.encode_file("examples/coffee.png"),
    "mask_url": fal_client.encode_file("examples/coffee-mask.png"),
    "prompt": "a green ball",
    "image_size": {"width": 64, "height": 64},
}
print(fal_client.subscribe("fal-ai/fast-lightning-sdxl/inpainting", arguments)["images"])
""",
        encoding="utf-8",
    )
    with terminating(reader_s) as tls:
        here = f"127.0.0.1:{tls.port}"
        served = replace(settings, public_url=f"https://{here}")
        with running(served, inpainter=demo_inpainter) as server:
            tls.backend_port = server.site.settings.port
            command = ["bash", "-ec", ENVIRONMENT.replace(PROXIED, here)]
            trusting = {**environment, "SSL_CERT_FILE": str(tls.authority)}
            assert f"https://{here}/files/" in ran(command, reader_s, trusting)
