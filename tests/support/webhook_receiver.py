"""A real HTTP server that is told by webhooks, and fal's documented way to verify them.

The verification follows fal's documentation step by step, with the library it uses (PyNaCl), so
that it shares no code with the signing.
"""

import base64
import hashlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

PATIENCE_S = 30.0
Answer = Callable[[int], int]
"""The HTTP status for the n-th webhook, counted from 1; it may take its time."""


@dataclass(frozen=True)
class Told:
    """One webhook as it came. headers: names in lower case."""

    path: str
    headers: Mapping[str, str]
    content: bytes
    at: float

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.content)
        return body


class Receiver:
    """What came, and what is answered. `location`: where it redirects, for a status of 3xx."""

    def __init__(self, address: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.told: list[Told] = []
        self.answer: Answer = lambda _: 200
        self.location: str | None = None
        self._came = threading.Condition()
        self._server = ThreadingHTTPServer((address, port), self._handler())
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"http{'s' if tls else ''}://{address}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, count: int, patience_s: float = PATIENCE_S) -> list[Told]:
        """All that came, once they are `count`."""
        with self._came:
            came = self._came.wait_for(lambda: len(self.told) >= count, patience_s)
            assert came, f"{len(self.told)} of {count} webhooks came"
            return list(self.told)

    def stays_at(self, count: int, seconds: float) -> None:
        """No more than `count` come within so many seconds."""
        with self._came:
            self._came.wait_for(lambda: len(self.told) > count, seconds)
            assert len(self.told) == count

    def _keep(self, told: Told) -> int:
        with self._came:
            self.told.append(told)
            self._came.notify_all()
            return len(self.told)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                count = receiver._keep(Told(self.path, headers, content, time.time()))
                try:
                    self.send_response(receiver.answer(count))
                    if receiver.location is not None:
                        self.send_header("location", receiver.location)
                    self.send_header("content-length", "0")
                    self.end_headers()
                except OSError:
                    pass  # the sender's patience was shorter

            def log_message(self, *_: object) -> None: ...

        return Handler


@contextmanager
def receiving(
    address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    """A receiver on any free port, or on `port`."""
    receiver = Receiver(address, port, tls)
    try:
        yield receiver
    finally:
        receiver.close()


def verified(jwks_url: str, told: Told) -> bool:
    """Whether fal's documented recipe accepts the webhook."""
    keys = httpx2.get(jwks_url).raise_for_status().json()["keys"]
    headers = told.headers
    request_id = headers.get("x-fal-webhook-request-id")
    user_id = headers.get("x-fal-webhook-user-id")
    timestamp = headers.get("x-fal-webhook-timestamp")
    signature = headers.get("x-fal-webhook-signature")
    if not (request_id and user_id and timestamp and signature):
        return False
    if abs(int(time.time()) - int(timestamp)) > 300:
        return False
    digest = hashlib.sha256(told.content).hexdigest()
    message = f"{request_id}\n{user_id}\n{timestamp}\n{digest}".encode()
    for key in keys:
        public = base64.urlsafe_b64decode(key.get("x", ""))
        try:
            VerifyKey(public).verify(message, bytes.fromhex(signature))
        except BadSignatureError:
            continue
        return True
    return False
