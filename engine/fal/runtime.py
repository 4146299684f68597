"""What answers `lightfill.fal` in this process: a queue, its worker, the model and the files.

One Runtime per configuration, shared by all clients of the process. Nothing exists before the first
call; the worker's thread starts with the first request that waits, the model with the first job.

At exit the worker takes no more jobs, the one it has goes back to the queue at its next step, and
jobs that wait stay: another process on the same database, or the next start, runs them. A forked
child starts anew; what it inherited is left untouched, for the parent still uses it.
"""

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import DatabaseUnavailable, InvalidInput
from .remotes import disconnect
from .settings import Settings

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..pipeline import Inpainter
    from .endpoint import Endpoint
    from .job import Claim, OnLog
    from .observer import JobObserver
    from .worker import Run

_SWEEP_S = 3600.0
_EXIT_GRACE_S, _EXIT_GIVE_UP_S = 0.0, 10.0


@dataclass(frozen=True)
class Configuration:
    """What a runtime is made of.

    inpainter: an open one of the caller's, in place of the one `settings` name. worker: whether
    this process runs jobs; if not, others on the same database must. run: what is done with a job
    in place of the model (`engine.fal.worker`), to measure or to test everything around it.
    observer: told what becomes of jobs.
    """

    settings: Settings
    inpainter: "Inpainter | None" = None
    worker: bool = True
    run: "Run | None" = None
    observer: "JobObserver | None" = None


class Runtime:
    """The queue and files of one configuration; a worker and a model once they are needed."""

    def __init__(self, configuration: Configuration) -> None:
        try:
            from .files import Files
            from .queue import JobQueue
            from .worker import Worker
        except ModuleNotFoundError as error:
            raise DatabaseUnavailable(
                f"lightfill.fal needs {error.name}: run `pip install 'lightfill[fal]'`"
            ) from error

        settings = configuration.settings
        self.settings = settings
        self.files = Files(settings)
        self.queue = JobQueue.open(
            settings.database,
            max_length=settings.max_queue_length,
            retention_s=settings.job_retention_s,
            lease_s=settings.lease_s,
            observer=configuration.observer,
        )
        self._configuration = configuration
        self._workers = [
            Worker(
                self.queue,
                configuration.run or self._run,
                heartbeat_s=settings.heartbeat_s,
                sweep=self._sweep,
            )
            for _ in range(settings.workers)
        ]
        self._endpoint: Endpoint | None = None
        self._lock = threading.Lock()
        self._works = False
        self._closed = False
        self._swept: float | None = None

    def work(self) -> None:
        """See to it that the workers of this process take jobs, if it may have any."""
        with self._lock:
            if self._configuration.worker and not self._works and not self._closed:
                for worker in self._workers:
                    worker.start()
                self._works = True

    def stop_work(self, grace_s: float, give_up_s: float) -> bool:
        """Stop the workers, all at once (`Worker.stop`); whether their threads have ended."""
        with self._lock:
            self._closed = True
            stopping = self._workers if self._works else []
        for worker in stopping:
            worker.retire()
        over = time.monotonic() + grace_s
        ended = [worker.stop(max(0.0, over - time.monotonic()), give_up_s) for worker in stopping]
        return all(ended)

    def close(self, grace_s: float, give_up_s: float) -> None:
        """Stop the workers, then close the model and the database."""
        if not self.stop_work(grace_s, give_up_s):
            return  # their threads still use them, and end with the process
        if self._endpoint is not None:
            self._endpoint.close()
        self.queue.close()

    def warm_up(self) -> None:
        """Open the model and run it once; raises what a first request would."""
        if self._configuration.run is None:
            self.endpoint.warm_up()

    @cached_property
    def bundle(self) -> "Bundle":
        """The model bundle that jobs run on; raises BundleError. No model is opened for it."""
        from ..bundle import Bundle

        given = self._configuration.inpainter
        return Bundle.open(self.settings.bundle) if given is None else given.bundle

    @property
    def endpoint(self) -> "Endpoint":
        """What runs the jobs, made at first use."""
        from .endpoint import Endpoint

        with self._lock:
            if self._endpoint is None:
                given = self._configuration.inpainter
                self._endpoint = Endpoint(self.settings, given, self.files)
            return self._endpoint

    def _run(
        self, claim: "Claim", log: "OnLog", cancelled: Callable[[], bool]
    ) -> tuple[int, dict[str, Any], dict[str, float]]:
        """In the worker's thread: the endpoint's output for one job."""
        output = self.endpoint.run(
            claim.arguments, on_log=log, cancelled=cancelled, owner=claim.owner
        )
        return 200, output, {}

    def _sweep(self) -> None:
        """What has expired, between two jobs: files once an hour, for each of them is looked at."""
        self.queue.sweep()
        with self._lock:
            is_due = self._swept is None or time.monotonic() - self._swept > _SWEEP_S
            self._swept = time.monotonic() if is_due else self._swept
        if is_due:
            self.files.sweep()


_lock = threading.Lock()
_default: Configuration | None = None
_runtimes: dict[Configuration, Runtime] = {}
_inherited: list[object] = []


def configure(
    settings: Settings | None = None,
    *,
    inpainter: "Inpainter | None" = None,
    worker: bool = True,
    **overrides: Any,
) -> Settings:
    """Say what the module's functions and clients without settings of their own run on.

    settings: None reads LIGHTFILL_* variables. overrides: fields of `Settings` that win over
    either, as `bundle=` or `device=`. inpainter: an open one, in place of the one they name; the
    caller closes it. worker: False leaves the jobs to other processes on the same database.
    `base_url=` names a lightfill server, which then answers instead of this process.

    What ran on the configuration before is shut down. Returns the settings in force.
    """
    from dataclasses import replace

    global _default
    if settings is None:
        settings = Settings.from_environment(**overrides)
    else:
        settings = replace(settings, **overrides)
    if settings.base_url is not None and inpainter is not None:
        raise InvalidInput(
            "inpainter", f"is not used: {settings.base_url} answers; leave out it or base_url"
        )
    with _lock:
        before, _default = _default, Configuration(settings, inpainter, worker)
        old = None if before in {None, _default} else _runtimes.pop(before, None)
    if old is not None:
        old.close(_EXIT_GRACE_S, _EXIT_GIVE_UP_S)
    return settings


def configuration_for(settings: Settings | None) -> Configuration:
    """What these settings stand for; None: what is configured, or LIGHTFILL_* from now on."""
    global _default  # noqa: PLW0603
    if settings is not None:
        return Configuration(settings)
    with _lock:
        _default = _default or Configuration(Settings.from_environment())
        return _default


def runtime(settings: Settings | None = None) -> Runtime:
    """The runtime of these settings, None for the configured ones; made if there is none."""
    wanted = configuration_for(settings)
    with _lock:
        if wanted not in _runtimes:
            _close_in_children_of_multiprocessing()
            _runtimes[wanted] = Runtime(wanted)
        return _runtimes[wanted]


def shutdown(grace_s: float = _EXIT_GRACE_S) -> None:
    """Stop every worker of this process, free the models, close connections to servers.

    The next call starts anew.

    grace_s: how long a running job may take to finish; then it goes back to the queue. Called at
    exit without a grace.
    """
    with _lock:
        running = list(_runtimes.values())
        _runtimes.clear()
    for each in running:
        each.close(grace_s, _EXIT_GIVE_UP_S)
    disconnect()


def _close_in_children_of_multiprocessing() -> None:
    """Its forked children end without atexit, but with the finalizers made in them."""
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util.Finalize(None, shutdown, exitpriority=0)


def _start_anew() -> None:
    """In a forked child: its threads are gone, and the database's connections are the parent's.

    They are kept, not closed: closing a connection writes to the database.
    """
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _inherited.extend(_runtimes.values())
    _runtimes.clear()


atexit.register(shutdown)
os.register_at_fork(after_in_child=_start_anew)
