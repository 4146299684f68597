"""What HTTP and the queue cost around the model: a real server whose jobs do nothing.

One client, or sixteen in two processes of their own: submit, ask for the status until the request
is completed, fetch the result. Every submit and every result is on the disk before it is told.
"""

import argparse
import http.client
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from ..engine.doctor import machine
from ..engine.fal.service import APPLICATION
from ..engine.fal.settings import Settings

CLIENTS = 16
JOBS_LIMIT = 100.0
LATENCY_LIMIT_MS = 25.0
_PAUSE_S, _PAUSE_ALONE_S = 0.1, 0.002
"""Between two looks at a status: fal_client's own pause, and one for a client in a hurry."""
_begin: Barrier
_ARGUMENTS = {
    "image_url": "https://example.org/photo.png",
    "mask_url": "https://example.org/mask.png",
    "prompt": "a tiger sitting on a park bench",
}
_OUTPUT = {
    "images": [{"url": "https://example.org/files/0.jpg", "width": 1024, "height": 1024}],
    "timings": {"inference": 0.0},
    "seed": 7,
    "has_nsfw_concepts": [False],
    "prompt": _ARGUMENTS["prompt"],
}


@dataclass(frozen=True, kw_only=True)
class ServerOverhead:
    """alone_ms: (median, p99) of one client's submit to result. jobs: whole ones a second, by 16
    clients, with as many requests as `requests` a second."""

    alone_ms: tuple[float, float]
    jobs: float
    requests: float


def measure(alone: int = 200, together: int = 1600) -> ServerOverhead:
    """Start a server in a process of its own, and send it so many jobs in each way."""
    with _server() as port:
        client = _Client(port)
        _many(port, CLIENTS * 4)  # warm
        latencies = [_timed_alone(client) for _ in range(alone)]
        requests, seconds = _many(port, together)
    p99 = sorted(latencies)[min(int(alone * 0.99), alone - 1)]
    return ServerOverhead(
        alone_ms=(statistics.median(latencies) * 1000, p99 * 1000),
        jobs=together / seconds,
        requests=requests / seconds,
    )


class _Client:
    """Keeps one connection; plain sockets, so that the client costs little beside the server."""

    def __init__(self, port: int) -> None:
        self._line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.requests = 0

    def call(self, method: str, url: str, body: Any = None) -> tuple[int, bytes]:
        content = None if body is None else json.dumps(body)
        self._line.request(method, url, content, {"content-type": "application/json"})
        reply = self._line.getresponse()
        self.requests += 1
        return reply.status, reply.read()

    def submit(self) -> str:
        status, body = self.call("POST", f"/queue/{APPLICATION}", _ARGUMENTS)
        if status != 200:
            raise RuntimeError(f"submit was answered with {status}: {body!r}")
        url = str(json.loads(body)["response_url"])
        return url[url.index("/queue/") :]

    def result(self, url: str) -> None:
        status, body = self.call("GET", url)
        if status != 200 or json.loads(body) != _OUTPUT:
            raise RuntimeError(f"the result is {status}: {body!r}")


def _timed_alone(client: _Client) -> float:
    start = time.perf_counter()
    url = client.submit()
    while client.call("GET", f"{url}/status")[0] != 200:
        time.sleep(_PAUSE_ALONE_S)
    client.result(url)
    return time.perf_counter() - start


def _many(port: int, jobs: int) -> tuple[int, float]:
    """So many jobs by 16 clients, in two processes: the requests they sent, and the seconds."""
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(2)
    with context.Pool(2, _met, (begin,)) as processes:
        found = processes.starmap(_clients, [(port, CLIENTS // 2, jobs // 2)] * 2, chunksize=1)
    return sum(requests for requests, _ in found), max(seconds for _, seconds in found)


def _met(begin: Barrier) -> None:
    global _begin  # noqa: PLW0603, the one way to hand a barrier to a pool's process
    _begin = begin


def _clients(port: int, count: int, jobs: int) -> tuple[int, float]:
    clients = [_Client(port) for _ in range(count)]

    def work(client: _Client) -> int:
        for _ in range(jobs // count):
            url = client.submit()
            while client.call("GET", f"{url}/status")[0] != 200:
                time.sleep(_PAUSE_S)
            client.result(url)
        return client.requests

    with ThreadPoolExecutor(count) as threads:
        _begin.wait()  # starting a process is not the server's work
        start = time.perf_counter()
        return sum(threads.map(work, clients)), time.perf_counter() - start


@contextmanager
def _server() -> Iterator[int]:
    """The port of a server that is ready."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as directory:
        process = context.Process(target=_serve, args=(Path(directory), theirs))
        process.start()
        theirs.close()  # so that a server that dies is an end of file here
        try:
            port = int(ours.recv())
            client = _Client(port)
            while client.call("GET", "/ready")[0] != 200:
                time.sleep(_PAUSE_S)
            yield port
        finally:
            process.terminate()
            process.join()


def _serve(directory: Path, told: Connection) -> None:
    from ..engine.server.serve import serve

    serve(
        Settings(data_dir=directory, port=0),
        lambda settings: told.send(settings.port),
        run=lambda *_: (200, _OUTPUT, {}),
    )


def main() -> None:
    """Print the medians of several runs, each on a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1600)
    asked = parser.parse_args()
    runs = [measure(together=asked.jobs) for _ in range(asked.runs)]
    median = statistics.median(run.alone_ms[0] for run in runs)
    p99 = statistics.median(run.alone_ms[1] for run in runs)
    jobs = statistics.median(run.jobs for run in runs)
    requests = statistics.median(run.requests for run in runs)
    print(f"HTTP around jobs that do nothing, medians of {len(runs)} runs; {machine()}")
    print(f"  1 client, submit to result  {median:6.1f} ms  p99 {p99:.1f} ms"
          f"  (at most {LATENCY_LIMIT_MS:.0f})")  # fmt: skip
    print(f"  {CLIENTS} clients, whole jobs       {jobs:6.0f} /s, {requests:.0f} requests/s"
          f"  (at least {JOBS_LIMIT:.0f})")  # fmt: skip


if __name__ == "__main__":
    main()
