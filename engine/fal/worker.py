"""A worker: a thread that takes one job after another, and one that keeps its lease alive."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, Self

from ..errors import Cancelled, DatabaseUnavailable, LightfillError
from .changes import WORK, cancellation
from .claims import Claims
from .job import Claim, OnLog
from .transitions import CANCELLED_BY_CLIENT
from .validation import error_body

logger = logging.getLogger(__name__)

Outcome = tuple[int, Mapping[str, Any], Mapping[str, float]]
"""HTTP status, body and metrics of a job."""
Run = Callable[[Claim, OnLog, Callable[[], bool]], Outcome]
"""run(claim, log, cancelled): what a worker does with a job. It may raise: a LightfillError becomes
the reply fal would send, anything else a 500; it stops soon after `cancelled()` is true."""

_RETRY_S = 0.5
_SWEEP_S = 60.0
_FIRST_LOOK_S = 0.2
"""A job cancelled between its claim and the first watch for that is noticed this soon."""


class Worker:
    """Runs the queue's jobs, one at a time, in a thread of its own. One per device.

    name: shown in logs; by default host, process and a random part. heartbeat_s: how often the
    lease is renewed, and so how soon a cancellation by another process is noticed; one of this
    process is noticed at once. poll_s: how often an idle worker looks for other processes' jobs.
    sweep: called between two jobs, once a minute; by default what expired leaves the queue.
    """

    def __init__(
        self,
        queue: Claims,
        run: Run,
        name: str | None = None,
        *,
        heartbeat_s: float | None = None,
        poll_s: float = 0.2,
        sweep: Callable[[], object] | None = None,
    ) -> None:
        unique = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.name = name or unique
        self._queue = queue
        self._run = run
        self._heartbeat_s = heartbeat_s or min(queue.lease_s / 6, 5.0)
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._hurried = threading.Event()
        self._sweep = sweep or queue.sweep
        self._swept = -_SWEEP_S
        self._thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
        self._leases = _Leases(queue, self._heartbeat_s)

    def start(self) -> Self:
        """Begin to take jobs."""
        self._leases.start()
        self._thread.start()
        return self

    def retire(self) -> None:
        """Take no more jobs; the running one goes on."""
        self._stopping.set()
        self._queue.changes.announce(WORK)

    def stop(self, grace_s: float = 30.0, give_up_s: float = 5.0) -> bool:
        """Take no more jobs; True once the thread has ended.

        The running job has `grace_s` to finish. Then it is told to stop and goes back to the
        queue; False if it has not stopped `give_up_s` later: it stays this worker's as long as
        the process lives, and becomes another's when its lease runs out.
        """
        self.retire()
        self._thread.join(grace_s)
        self._hurried.set()
        self._thread.join(give_up_s)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self) -> None:
        busy = False
        with self._leases, self._queue.changes.watch(WORK) as work:
            while not self._stopping.is_set():
                work.clear()  # before looking: a submit from here on is noticed
                try:
                    self._sweep_if_due()
                    claim = self._queue.claim(self.name, busy=busy)
                    busy = claim is not None
                    if claim is None:
                        work.wait(self._poll_s)
                    else:
                        self._work(claim)
                except Exception:  # a worker that ended would leave every job waiting for ever
                    logger.exception("worker %s cannot use the queue; it goes on trying", self.name)
                    self._stopping.wait(_RETRY_S)

    def _work(self, claim: Claim) -> None:
        started = time.perf_counter()
        with self._leases.renewed(claim) as lease:
            outcome = self._outcome(claim, lease)
            if outcome is None:
                self._queue.give_back(claim)
                return
            status_code, body, metrics = outcome
            metrics = {"inference_time": time.perf_counter() - started, **metrics}
            self._finish(claim, lease, (status_code, body, metrics))

    def _outcome(self, claim: Claim, lease: "_Lease") -> Outcome | None:
        """What `run` made of the job; None if it was stopped because this worker stops."""
        try:
            return self._run(
                claim,
                partial(self._log, claim),
                lambda: lease.lost.is_set() or self._hurried.is_set(),
            )
        except Cancelled:
            if self._hurried.is_set() and not lease.lost.is_set():
                return None
            return *error_body(CANCELLED_BY_CLIENT), {}
        except Exception as error:
            status_code, body = error_body(error)
            if status_code >= 500:
                logger.exception("request %s failed", claim.request_id)
            return status_code, body, {}

    def _log(self, claim: Claim, message: str, labels: Mapping[str, str] | None = None) -> None:
        try:
            self._queue.log(claim, message, labels=labels)
        except DatabaseUnavailable:  # a picture is worth more than a line about it
            logger.exception("a log line of request %s is lost", claim.request_id)

    def _finish(self, claim: Claim, lease: "_Lease", outcome: Outcome) -> None:
        """Store the outcome, again and again while the database is away and the job is ours."""
        payload_error = None
        while True:
            try:
                stored = self._queue.finish(claim, *outcome, payload_error)
            except (TypeError, ValueError) as error:
                logger.exception("request %s: its result is not JSON", claim.request_id)
                outcome, payload_error = (*error_body(error), {}), str(error)
            except DatabaseUnavailable:
                if self._hurried.is_set() or lease.expired():
                    raise
                logger.exception("request %s: its result is not stored yet", claim.request_id)
                self._hurried.wait(_RETRY_S)
            else:
                if not stored:
                    logger.warning("request %s had been taken away", claim.request_id)
                return

    def _sweep_if_due(self) -> None:
        if time.monotonic() - self._swept < _SWEEP_S:
            return
        self._swept = time.monotonic()
        try:
            self._sweep()
        except LightfillError:  # a full or foreign directory is no reason not to work
            logger.exception("worker %s cannot delete what has expired", self.name)


class _Leases:
    """Renews the lease of its worker's claim, in a thread that outlives the jobs."""

    def __init__(self, queue: Claims, heartbeat_s: float) -> None:
        self._queue = queue
        self._heartbeat_s = heartbeat_s
        self._held: SimpleQueue[_Lease | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._renew, name="lightfill lease", daemon=True)

    def start(self) -> None:
        """Begin to renew what there will be."""
        self._thread.start()

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._held.put(None)
        self._thread.join()

    @contextmanager
    def renewed(self, claim: Claim) -> Iterator["_Lease"]:
        """The claim's lease, renewed to the end of the block."""
        lease = _Lease(self._queue, claim, self._heartbeat_s)
        self._held.put(lease)
        try:
            yield lease
        finally:
            lease.end()

    def _renew(self) -> None:
        while (lease := self._held.get()) is not None:
            lease.renew()


class _Lease:
    """The lease of one claim; `lost` is set when the job is not ours any more."""

    def __init__(self, queue: Claims, claim: Claim, heartbeat_s: float) -> None:
        self._queue = queue
        self._claim = claim
        self._heartbeat_s = heartbeat_s
        self._renewed = time.monotonic()
        self._over = threading.Event()
        self.lost = threading.Event()

    def end(self) -> None:
        """Renew it no more."""
        self._over.set()
        self._queue.changes.announce(cancellation(self._claim.request_id))

    def expired(self) -> bool:
        """Whether no heartbeat got through for so long that another worker may have the job."""
        return time.monotonic() - self._renewed >= self._queue.lease_s

    def renew(self) -> None:
        """Renew it until it ends or is lost."""
        pause = min(self._heartbeat_s, _FIRST_LOOK_S)
        with self._queue.changes.watch(cancellation(self._claim.request_id)) as told:
            while not (self._over.is_set() or self.lost.is_set()):
                told.wait(pause)
                told.clear()
                pause = self._heartbeat_s
                if not self._over.is_set() and not self._beat():
                    self.lost.set()

    def _beat(self) -> bool:
        """Whether the job is still ours, as far as can be told."""
        now = time.monotonic()
        try:
            ours = self._queue.heartbeat(self._claim)
        except Exception:  # without heartbeats the job would be run again elsewhere
            logger.exception("no heartbeat of request %s", self._claim.request_id)
            return not self.expired()
        self._renewed = now
        return ours
