"""The endpoint's own documentation, its snippets run word for word by the client it names.

`documentation.txt` is that page, "Calling the API" to "Files". Before each snippet stands one line
of ours, which points the client here; after it one that reports what the snippet has made.
"""

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from running_server import ENDPOINT, RunningServer
from scripted_endpoint import OUTPUT
from scripted_server import Answer, Script, served

from lightfill.engine.errors import JobNotFound
from lightfill.engine.fal.fetch import Fetcher

from .conftest import Node

PAGE = (Path(__file__).parent / "documentation.txt").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^import \* as fal from .*?^(?:\}\);|const url = .*?;)$", PAGE, re.M | re.S)
EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURES = (
    "https://raw.githubusercontent.com/CompVis/latent-diffusion/main/data/inpainting_examples"
)
TYPE = "application/json"
REQUEST = "764cabcf-b745-4b3e-ae38-1200304cf45b"


def snippet(word: str) -> str:
    """The one snippet that holds the word."""
    (found,) = [each for each in SNIPPETS if word in each]
    return found


def run(node: Node, origin: str, folder: Path, text: str, made: str) -> Any:
    """What the snippet has made, by its names, after it ran as a program of its own."""
    (folder / "node_modules").symlink_to(node.packages)
    (folder / "host.mjs").write_text(HOST, encoding="utf-8")
    program = folder / "program.mjs"
    end = f"\nconsole.log(`REPORT ${{JSON.stringify({{ {made} }})}}`);\n"
    program.write_text(f'import "./host.mjs";\n{text}{end}', encoding="utf-8")
    return node.report(program, ORIGIN=origin, FAL_KEY="YOUR_API_KEY")


HOST = """
const prefixes = {
  "fal.run": "/run",
  "queue.fal.run": "/queue",
  "rest.alpha.fal.ai": "/rest",
};
const there = globalThis.fetch;
globalThis.fetch = (url, options) => {
  const { host, pathname, search } = new URL(url);
  const here = host in prefixes ? process.env.ORIGIN + prefixes[host] + pathname + search : url;
  return there(here, options);
};
"""


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The page's two pictures, fetched from a server of this test in place of GitHub's.

    Gives the URLs that were asked for.
    """
    folder = tmp_path / "pictures"
    folder.mkdir()
    for ending, source in (("", "coffee"), ("_mask", "coffee-mask")):
        picture = (EXAMPLES / f"{source}.png").read_bytes()
        (folder / f"overture-creations-5sI6fQgYIuo{ending}.png").write_bytes(picture)

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    fetch, asked = Fetcher.fetch, []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        here = f"http://127.0.0.1:{server.server_port}"

        def fetched(self: Fetcher, text: str, field: str) -> bytes:
            asked.append(text)
            return fetch(self, text.replace(PICTURES, here), field)

        monkeypatch.setattr(Fetcher, "fetch", fetched)
        yield asked
        server.shutdown()
        thread.join()


def test_all_snippets_of_the_page_are_run_here() -> None:
    words = ["fal.subscribe(", "fal.config(", "fal.queue.submit(", "fal.queue.status(",
             "fal.queue.result(", "fal.storage.upload("]  # fmt: skip
    assert sorted(map(snippet, words)) == sorted(SNIPPETS)
    assert PAGE.count("import * as fal") == len(SNIPPETS)


@pytest.mark.slow  # a 1024x1024 picture on a CPU
def test_submit_a_request(
    node: Node, demo_server: RunningServer, pictures: list[str], tmp_path: Path
) -> None:
    told = run(node, demo_server.origin, tmp_path, snippet("fal.subscribe("), "result")
    (image,) = told["result"]["images"]
    assert (image["width"], image["height"], image["content_type"]) == (1024, 1024, "image/jpeg")
    with urllib.request.urlopen(image["url"]) as file:
        assert file.read(3) == b"\xff\xd8\xff"
    assert told["result"]["prompt"] == "a tiger sitting on a park bench"
    assert set(told["result"]) == {"images", "timings", "seed", "has_nsfw_concepts", "prompt"}
    name = "overture-creations-5sI6fQgYIuo"
    assert sorted(pictures) == [f"{PICTURES}/{name}.png", f"{PICTURES}/{name}_mask.png"]


def test_authentication(node: Node, tmp_path: Path) -> None:
    request = ("POST", f"/run/{ENDPOINT}")
    with served(Script({request: [Answer(200, OUTPUT, {"content-type": TYPE})]})) as script:
        made = f"result: await fal.run({json.dumps(ENDPOINT)}, {{ input: {{}} }})"
        told = run(node, script.origin, tmp_path, snippet("fal.config("), made)
    assert told["result"] == OUTPUT
    assert script.headers[0]["authorization"] == "Key YOUR_FAL_KEY"


def test_queue_submit_with_a_webhook(node: Node, server: RunningServer, tmp_path: Path) -> None:
    told = run(node, server.origin, tmp_path, snippet("fal.queue.submit("), "request_id")
    status = server.site.queue.status(told["request_id"])
    assert status.application == "fal-ai/fast-lightning-sdxl"


@pytest.fixture
def documented_request(server: RunningServer) -> RunningServer:
    """A server that has run the request whose id the page shows."""
    queue = server.site.queue
    try:
        queue.status(REQUEST)
    except JobNotFound:  # by no test before this one
        queue.submit("fal-ai/fast-lightning-sdxl", {"prompt": "x"}, request_id=REQUEST)
    while queue.status(REQUEST).state != "COMPLETED":
        queue.wait(REQUEST, 30)
    return server


def test_queue_status(node: Node, documented_request: RunningServer, tmp_path: Path) -> None:
    told = run(node, documented_request.origin, tmp_path, snippet("fal.queue.status("), "status")
    assert (told["status"]["status"], told["status"]["request_id"]) == ("COMPLETED", REQUEST)
    assert [log["message"] for log in told["status"]["logs"]] == ["step 1/2", "step 2/2"]


def test_queue_result(node: Node, documented_request: RunningServer, tmp_path: Path) -> None:
    told = run(node, documented_request.origin, tmp_path, snippet("fal.queue.result("), "result")
    assert told["result"] == OUTPUT


def test_uploading_files(node: Node, server: RunningServer, tmp_path: Path) -> None:
    told = run(node, server.origin, tmp_path, snippet("fal.storage.upload("), "url")
    with urllib.request.urlopen(told["url"]) as file:
        assert file.read() == b"Hello, World!"
        assert file.headers["content-type"].startswith("text/plain")
