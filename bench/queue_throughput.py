"""What the job queue alone does on this machine: submits, statuses and whole jobs a second.

Every submit is on the disk when it returns (SQLite: synchronous=FULL, one fsync for the group of
submitters that wait together), so the figures depend on the disk, whose fsync is printed beside
them. Give a database URL to measure PostgreSQL instead of a SQLite file in a temporary directory.
"""

import argparse
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..engine.doctor import machine
from ..engine.fal.job import Priority
from ..engine.fal.queue import JobQueue

JOBS = 10_000
SUBMITTERS = 16
SUBMITS_LIMIT = 1000.0
STATUS_LIMIT_MS = 5.0
APPLICATION = "fal-ai/fast-lightning-sdxl"
ARGUMENTS = {
    "image_url": "https://example.org/photo.png",
    "mask_url": "https://example.org/mask.png",
    "prompt": "a tiger sitting on a park bench",
    "num_inference_steps": 4,
    "seed": 7,
}


@dataclass(frozen=True, kw_only=True)
class QueueThroughput:
    """What was measured with `jobs` requests stored and waiting.

    submits, submits_alone, jobs_done: a second, by 16 threads, by one thread, and claim with
    finish by one worker. status_ms, busy_ms: (median, p99) of a waiting request's status with its
    position, while the queue is idle and while 16 threads submit. fsync_ms: median of the disk.
    """

    jobs: int
    submits: float
    submits_alone: float
    status_ms: tuple[float, float]
    busy_ms: tuple[float, float]
    jobs_done: float
    fsync_ms: float


def measure(url: str, jobs: int = JOBS, looks: int = 2000) -> QueueThroughput:
    """Fill the queue at `url` with `jobs` requests, then look at them and work some of them off."""
    queue = JobQueue.open(url, max_length=1_000_000, retention_s=3600, lease_s=60)
    try:
        ids, seconds = _submit_all(queue, jobs)
        alone = _timed(lambda: _submit(queue), max(jobs // 20, 1))
        status = _timed(lambda: queue.status(random.choice(ids)), looks)  # noqa: S311
        busy = _status_while_submitting(queue, ids, looks)
        done = _timed(lambda: _work_one(queue), max(jobs // 20, 1))
    finally:
        queue.close()
    return QueueThroughput(
        jobs=jobs,
        submits=jobs / seconds,
        submits_alone=len(alone) / sum(alone),
        status_ms=_median_and_p99(status),
        busy_ms=_median_and_p99(busy),
        jobs_done=len(done) / sum(done),
        fsync_ms=_fsync_ms(),
    )


def _submit(queue: JobQueue) -> str:
    priority: Priority = random.choice(("normal", "low"))  # noqa: S311
    return queue.submit(APPLICATION, ARGUMENTS, priority=priority)


def _submit_all(queue: JobQueue, jobs: int) -> tuple[Sequence[str], float]:
    with ThreadPoolExecutor(SUBMITTERS) as threads:
        start = time.perf_counter()
        ids = list(threads.map(lambda _: _submit(queue), range(jobs)))
        return ids, time.perf_counter() - start


def _status_while_submitting(queue: JobQueue, ids: Sequence[str], looks: int) -> list[float]:
    stop = threading.Event()

    def submit_on() -> None:
        while not stop.is_set():
            _submit(queue)
            time.sleep(SUBMITTERS / SUBMITS_LIMIT)  # all together: the rate of the limit

    with ThreadPoolExecutor(SUBMITTERS) as threads:
        running = [threads.submit(submit_on) for _ in range(SUBMITTERS)]
        try:
            return _timed(lambda: queue.status(random.choice(ids)), looks)  # noqa: S311
        finally:
            stop.set()
            for future in running:
                future.result()


def _work_one(queue: JobQueue) -> None:
    claim = queue.claim("bench")
    if claim is not None:
        queue.finish(claim, 200, {"seed": 7}, {"inference_time": 0.5})


def _timed(action: Callable[[], object], times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


def _median_and_p99(seconds: Sequence[float]) -> tuple[float, float]:
    p99 = sorted(seconds)[min(int(len(seconds) * 0.99), len(seconds) - 1)]
    return statistics.median(seconds) * 1000, p99 * 1000


def _fsync_ms() -> float:
    """A file that grows, as a write-ahead log does."""
    with tempfile.NamedTemporaryFile() as file:

        def write() -> None:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())

        return statistics.median(_timed(write, 50)) * 1000


def main() -> None:
    """Print the medians of several runs, each in a database of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a PostgreSQL database; its jobs stay there")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=JOBS)
    asked = parser.parse_args()
    runs = [_run(asked.url, asked.jobs) for _ in range(asked.runs)]
    kind = "PostgreSQL" if asked.url else "SQLite (WAL, synchronous=FULL)"
    print(f"{kind}, {asked.jobs} jobs stored, medians of {len(runs)} runs; {machine()}")
    submits = statistics.median(run.submits for run in runs)
    print(f"  submits, {SUBMITTERS} threads {submits:9.0f} /s  (at least {SUBMITS_LIMIT:.0f})")
    alone = statistics.median(run.submits_alone for run in runs)
    print(f"  submits, 1 thread   {alone:9.0f} /s")
    for name, field in (("idle", "status_ms"), ("1,000 submits/s", "busy_ms")):
        median = statistics.median(getattr(run, field)[0] for run in runs)
        p99 = statistics.median(getattr(run, field)[1] for run in runs)
        limit = f"  (at most {STATUS_LIMIT_MS:.0f})" if field == "status_ms" else ""
        print(f"  status, {name:<16}{median:6.2f} ms  p99 {p99:.2f} ms{limit}")
    done = statistics.median(run.jobs_done for run in runs)
    print(f"  claim and finish    {done:9.0f} /s")
    print(f"  one fsync           {statistics.median(run.fsync_ms for run in runs):9.2f} ms")


def _run(url: str | None, jobs: int) -> QueueThroughput:
    if url:
        return measure(url, jobs)
    with tempfile.TemporaryDirectory() as directory:
        return measure(f"sqlite:///{Path(directory) / 'queue.sqlite3'}", jobs)


if __name__ == "__main__":
    main()
