"""PyPI fal-client, with nothing changed but its environment, before a server behind TLS."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

from running_server import running
from tls_terminator import terminating

from lightfill.engine.fal.settings import Settings
from lightfill.engine.pipeline import Inpainter

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM = """
import asyncio
import fal_client

endpoint = "fal-ai/fast-lightning-sdxl/inpainting"
arguments = {
    "image_url": fal_client.encode_file("coffee.png"),
    "mask_url": fal_client.encode_file("coffee-mask.png"),
    "prompt": "a red ball",
    "image_size": {"width": 64, "height": 64},
    "num_inference_steps": 1,
    "seed": 7,
}
seeds = [fal_client.run(endpoint, arguments)["seed"]]
seeds.append(fal_client.subscribe(endpoint, arguments, with_logs=True)["seed"])
handle = fal_client.submit(endpoint, arguments)
print(handle.status_url)
seeds.append(handle.get()["seed"])
seeds.append(fal_client.result(endpoint, handle.request_id)["seed"])
seeds.append(asyncio.run(fal_client.subscribe_async(endpoint, arguments))["seed"])
seeds.append(list(fal_client.stream(endpoint, arguments))[-1]["seed"])
try:
    fal_client.run(endpoint, {"prompt": "x"})
except fal_client.FalClientHTTPError as error:
    print(error.status_code)
print(seeds)
"""


def test_a_program_moves_by_its_environment_alone(
    settings: Settings, demo_inpainter: Inpainter, tmp_path: Path
) -> None:
    with terminating(tmp_path) as tls:
        here = replace(settings, public_url=f"https://127.0.0.1:{tls.port}")
        with running(here, inpainter=demo_inpainter) as server:
            tls.backend_port = server.site.settings.port
            ran = subprocess.run(
                [sys.executable, "-c", PROGRAM],
                cwd=EXAMPLES,
                env={
                    **os.environ,
                    "FAL_RUN_HOST": f"127.0.0.1:{tls.port}/run",
                    "FAL_QUEUE_RUN_HOST": f"127.0.0.1:{tls.port}/queue",
                    "SSL_CERT_FILE": str(tls.authority),
                    "FAL_KEY": "id:secret",
                },
                capture_output=True,
                text=True,
                check=False,
            )
    assert (ran.returncode, ran.stderr) == (0, "")
    status_url, refused, seeds = ran.stdout.splitlines()
    assert status_url.startswith(f"https://127.0.0.1:{tls.port}/queue/fal-ai/fast-lightning-sdxl/")
    assert (refused, seeds) == ("422", str([7] * 6))


def test_without_tls_fal_client_cannot_be_moved_by_its_environment(tmp_path: Path) -> None:
    """Why the page asks for TLS or for its constants: it speaks https whatever the host says."""
    with running(Settings(data_dir=tmp_path / "data", port=0, workers=0)) as server:
        code = """
        import fal_client, httpx
        from fal_client import client
        client.MAX_ATTEMPTS = 1
        try:
            fal_client.submit("fal-ai/fast-lightning-sdxl/inpainting", {})
        except httpx.ConnectError as error:
            print(error)
        """
        host = server.origin.removeprefix("http://")
        ran = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "FAL_RUN_HOST": host, "FAL_QUEUE_RUN_HOST": f"{host}/queue",
                 "FAL_KEY": "id:secret"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert "SSL" in ran.stdout, ran.stderr
