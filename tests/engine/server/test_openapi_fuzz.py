"""schemathesis sends what the OpenAPI document allows and what it does not: no 5xx, no hang.

TESTS_FUZZ_EXAMPLES says how many examples each route gets; `make fuzz-server` asks for many.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from server_process import ServerProcess

EXAMPLES = int(os.environ.get("TESTS_FUZZ_EXAMPLES", "6"))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
"""Not those that expect a wrong body to be refused: the queue takes it, its result is the 422."""
INSTANT = """
from lightfill.engine.fal.endpoint import Endpoint
from lightfill.engine.fal.schema import validated
def run(self, arguments, *, on_log, cancelled, owner):
    validated(arguments)
    on_log("step 1/1")
    return {"images": [], "timings": {}, "seed": 1, "has_nsfw_concepts": [], "prompt": "p"}
Endpoint.run, Endpoint.warm_up = run, lambda self: None
"""


@pytest.mark.slow  # 1,000 requests
def test_no_request_breaks_the_server(tmp_path: Path) -> None:
    tool = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert tool, "pip install schemathesis"
    with ServerProcess(tmp_path / "data", code=INSTANT) as server:
        server.until_ready()
        done = subprocess.run(
            [tool, "run", f"{server.origin}/openapi.json", "--checks", ",".join(CHECKS),
             "--max-examples", str(EXAMPLES), "--request-timeout", "20", "--phases",
             "examples,coverage,fuzzing", "--continue-on-failure", "--no-color", "--warnings=off"],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        sent = re.search(r"([\d,]+) generated", done.stdout)
        print(sent and sent[0])
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{''.join(server.said)[-3000:]}"
        assert sent is not None
        assert int(sent[1].replace(",", "")) > EXAMPLES * 10
        with server.client() as client:
            assert client.get("/ready").status_code == 200
        assert "Traceback" not in "".join(server.said)
