"""A server that answers what its script says: a fal-like one that fails on demand."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """status None: the connection is closed without a word. wait_s: before anything is sent."""

    status: int | None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0


@dataclass
class Script:
    """Answers by method and path; the last of several is given again and again.

    asked, headers, bodies: what came in. connections: how many were made.
    """

    answers: dict[tuple[str, str], list[Answer]]
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    origin: str = ""

    def next(self, method: str, path: str) -> Answer:
        self.asked.append((method, path))
        left = self.answers.get((method, path), [Answer(404, {"detail": "not here"})])
        return left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def served(script: Script) -> Iterator[Script]:
    """The script on a port of its own, as `origin` says."""
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            script.connections += 1
            super().setup()

        def do_GET(self) -> None:
            script.bodies.append(self.rfile.read(int(self.headers.get("content-length", 0))))
            script.headers.append({name.lower(): value for name, value in self.headers.items()})
            answer = script.next(self.command, self.path.partition("?")[0])
            closing.wait(answer.wait_s)
            if answer.status is None:
                self.close_connection = True
                return
            text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None: ...  # a client that did not wait

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        script.origin = f"http://127.0.0.1:{server.server_port}"
        try:
            yield script
        finally:
            closing.set()
            server.shutdown()
            thread.join()
