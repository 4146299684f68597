"""A small model hub on this machine: what `huggingface_hub` asks for, and ways to go wrong.

A model's commits are dictionaries of file names and contents. Tests that need one model only have
`FakeHub.MODEL`.
"""

import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


class Request(NamedTuple):
    method: str
    path: str
    range: str | None
    authorization: str | None = None


@dataclass
class Model:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)


class FakeHub:
    """A server while its `with` block lasts; its attributes say how it answers."""

    MODEL: ClassVar[str] = "someone/tiny-model"

    def __init__(self) -> None:
        self.models: dict[str, Model] = {self.MODEL: Model()}
        self.requests: list[Request] = []
        self.status = 0  # the answer to every request, if set
        self.gated = False  # files of every model are refused; the listing is not, as on the hub
        self.delay = 0.0  # seconds before each answer
        self.cuts: list[int] = []  # the next downloads break off after so many bytes
        self.lost: set[str] = set()  # listed, and gone
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub._answer(self)

            def do_GET(self) -> None:
                hub._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def branches(self) -> dict[str, str]:
        return self.models[self.MODEL].branches

    def commit(
        self, files: dict[str, bytes], branch: str = "main", name: str = MODEL, sha: str = ""
    ) -> str:
        """Make `files` the newest commit of `branch`; it is called `sha`, if that is given."""
        text = repr(sorted(files.items()))
        commit = sha or hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        model = self.models.setdefault(name, Model())
        model.commits[commit] = files
        model.branches[branch] = commit
        return commit

    def fetched(self, name: str) -> set[str]:
        """The files of a model whose content was asked for."""
        found = (re.fullmatch(rf"/{name}/resolve/[^/]+/(.+)", each.path) for each in self.requests)
        return {match[1] for match in found if match}

    def serve_this_process(self, patch: pytest.MonkeyPatch, cache: Path) -> None:
        """Make this process talk to this hub, waiting for nothing between retries."""
        template = f"{self.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "ENDPOINT", self.endpoint)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        patch.setattr("time.sleep", lambda _: None)

    def environment(self, home: Any, **more: str) -> dict[str, str]:
        """What a process needs to talk to this hub and to keep its files under `home`."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
        return kept | {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "NO_PROXY": "*"} | more

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        self.requests.append(
            Request(
                handler.command, path, handler.headers["Range"], handler.headers["Authorization"]
            )
        )
        threading.Event().wait(self.delay)  # tests put time.sleep out of action
        if self.status:
            return _refuse(handler, self.status, "")
        for name in self.models:
            if path.startswith((f"/api/models/{name}/", f"/{name}/")):
                kind, _, rest = path.partition(f"{name}/")[2].partition("/")
                if kind == "revision":
                    return self._list(handler, name, rest)
                revision, _, file = rest.partition("/")
                return self._send(handler, name, revision, file)
        return _refuse(handler, 401, "RepoNotFound")

    def _list(self, handler: BaseHTTPRequestHandler, model: str, revision: str) -> None:
        commits = self.models[model].commits
        commit = self.models[model].branches.get(revision, revision)
        if commit not in commits:
            return _refuse(handler, 404, "RevisionNotFound")
        siblings = [
            {"rfilename": name, "size": len(data)} for name, data in commits[commit].items()
        ]
        content = json.dumps({"id": model, "sha": commit, "siblings": siblings}).encode()
        _head(handler, 200, {"Content-Type": "application/json", "Content-Length": len(content)})
        handler.wfile.write(content)
        return None

    def _send(self, handler: BaseHTTPRequestHandler, model: str, revision: str, name: str) -> None:
        if self.gated:
            return _refuse(handler, 403, "GatedRepo")
        commit = self.models[model].branches.get(revision, revision)
        files = self.models[model].commits.get(commit, {})
        if name not in files or name in self.lost:
            return _refuse(handler, 404, "EntryNotFound")
        content = files[name]
        wanted, total = handler.headers["Range"], len(content)
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Length": total - first,
        }
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
        _head(handler, 206 if wanted else 200, headers)
        if handler.command == "GET":
            cut = self.cuts.pop(0) if self.cuts else total
            handler.wfile.write(content[first:][:cut])
        return None


def _refuse(handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
    _head(handler, status, {"Content-Length": 0} | ({"X-Error-Code": code} if code else {}))


def _head(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, Any]) -> None:
    handler.send_response(status)
    for name, text in headers.items():
        handler.send_header(name, str(text))
    handler.end_headers()
