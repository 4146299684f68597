"""What the routes of one server work on."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from ..fal.files import Files
from ..fal.outbox import Outbox
from ..fal.post import Poster
from ..fal.queue import JobQueue
from ..fal.reply import Reply
from ..fal.runtime import Configuration, Runtime
from ..fal.service import Service
from ..fal.settings import Settings
from .keys import KeyStore
from .metrics import Metrics
from .queue_gauges import QueueGauges
from .rate_limit import RateLimit
from .seals import Seal
from .webhook_signature import Signer
from .webhooks import Deliverer, WebhookPolicy

P = ParamSpec("P")
T = TypeVar("T")
_GIVE_UP_S = 5.0
_THREADS = 32
"""Calls of the database and the disk that may wait at a time; they take a millisecond each."""
_UPLOAD_THREADS = 8
"""Writes of uploaded files, which may take seconds: nothing else waits for them."""


@dataclass(frozen=True)
class Site:
    """One server's queue, files, webhooks and state. `settings.public_url` must be set.

    ready: set once the model is warm; failed: why it cannot be. stopping: set when the server
    takes its leave, for replies that would otherwise wait on.
    """

    settings: Settings
    runtime: Runtime
    service: Service
    metrics: Metrics
    signer: Callable[[], Signer]
    deliverer: Deliverer
    keys: KeyStore
    seal: Seal
    rate_limit: RateLimit
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[str] = field(default_factory=list)
    _threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_THREADS))
    _upload_threads: CapacityLimiter = field(
        default_factory=lambda: CapacityLimiter(_UPLOAD_THREADS)
    )

    @classmethod
    def of(
        cls, settings: Settings, *, webhooks: WebhookPolicy | None = None, **configuration: Any
    ) -> "Site":
        """The site of these settings; opens the database, not the model."""
        metrics = Metrics(settings)
        runtime = Runtime(Configuration(settings, observer=metrics, **configuration))
        metrics.registry.register(QueueGauges(runtime.queue))
        signer = cache(lambda: Signer.of(runtime.queue.database))
        private = settings.allow_private_addresses
        policy = webhooks or WebhookPolicy()
        deliverer = Deliverer(
            Outbox(runtime.queue.database),
            runtime.queue.changes,
            Poster(timeout_s=policy.timeout_s, allow_private=private, resolve=policy.resolve),
            signer,
            policy,
            metrics.attempted,
        )
        database = runtime.queue.database
        return cls(
            settings,
            runtime,
            Service(runtime.queue, f"{settings.public_url}/queue", allow_private=private),
            metrics,
            signer,
            deliverer,
            KeyStore(database),
            Seal.of(database),
            RateLimit(settings.requests_per_minute),
        )

    @property
    def queue(self) -> JobQueue:
        return self.runtime.queue

    @property
    def files(self) -> Files:
        return self.runtime.files

    @property
    def asks_for_keys(self) -> bool:
        """Whether every caller must show a key."""
        return bool(self.settings.authentication)

    def close(self) -> None:
        """Give running jobs back to the queue, and close the model and the database."""
        self.runtime.stop_work(0.0, _GIVE_UP_S)
        self.deliverer.stop()
        self.runtime.close(0.0, 0.0)

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function`, which may block for the database or the disk, returns."""
        call = partial(function, *args, **kwargs)
        return await to_thread.run_sync(call, limiter=self._threads)

    async def status(self, request_id: str, *, logs: bool, owner: str | None) -> Reply:
        """`Service.status`, of which there are many.

        In SQLite a look at a job takes a third of a millisecond and waits for no writer: less than
        handing it to a thread and back.
        """
        if self.queue.database.is_sqlite:
            seen = self.service.glance(request_id, logs=logs, owner=owner)
            if seen is not None:
                return seen
        return await self.in_thread(self.service.status, request_id, logs=logs, owner=owner)

    async def on_disk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `in_thread`, for the content of uploads."""
        call = partial(function, *args, **kwargs)
        return await to_thread.run_sync(call, limiter=self._upload_threads)
