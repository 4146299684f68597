"""Delivering webhooks: every server on a job database sends what is due, each webhook once.

At least once, that is: a server that dies after the receiver answered has not told anybody.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..errors import DatabaseUnavailable
from ..fal.addresses import Resolve, system_resolve
from ..fal.changes import WEBHOOKS, Changes
from ..fal.outbox import Delivery, Outbox
from ..fal.post import NotPosted, Poster
from .webhook_body import webhook_body
from .webhook_receivers import Receivers
from .webhook_signature import Signer

WebhookOutcome = Literal["delivered", "failed", "given_up"]
"""Of one attempt. failed: it is tried again."""
ANYBODY = "local"
"""The user id of requests that belong to no key."""
_RETRY_S = 0.5
_STOP_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WebhookPolicy:
    """How webhooks are delivered.

    retry_delays_s: the pause after each failed attempt: ten retries in two hours, as fal promises.
        Each is stretched or shortened by up to `jitter`, so that a receiver that was down is not
        met by everything at once.
    timeout_s: for one attempt. lease_s: after that long without a word from the server that has
        it, another sends it. poll_s: how soon what other processes left is noticed.
    places, places_each: attempts under way at a time, in all and to one receiver.
    resolve: who tells receivers' addresses.
    """

    retry_delays_s: tuple[float, ...] = tuple(7.0 * 2**n for n in range(10))
    jitter: float = 0.1
    timeout_s: float = 15.0
    lease_s: float = 60.0
    poll_s: float = 0.5
    places: int = 32
    places_each: int = 4
    resolve: Resolve = system_resolve


class Deliverer:
    """Sends the webhooks that are due, from threads of its own.

    changes: of this process's queue. told: the outcome of every attempt, for metrics.
    """

    def __init__(
        self,
        outbox: Outbox,
        changes: Changes,
        poster: Poster,
        signer: Callable[[], Signer],
        policy: WebhookPolicy,
        told: Callable[[WebhookOutcome], object] = lambda _: None,
    ) -> None:
        self._outbox = outbox
        self._changes = changes
        self._poster = poster
        self._signer = signer
        self._policy = policy
        self._told = told
        self._receivers = Receivers(policy.places, policy.places_each)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="lightfill webhooks", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self, grace_s: float = _STOP_S) -> bool:
        """Begin no more attempts; True if those under way have ended within `grace_s` seconds.

        Others are sent again by another server, or the next start, once their lease is over.
        """
        self._stopping.set()
        self._changes.announce(WEBHOOKS)
        over = time.monotonic() + grace_s
        if self._thread.ident is not None:
            self._thread.join(grace_s)
        return self._receivers.wait_empty(max(0.0, over - time.monotonic()))

    def _serve(self) -> None:
        with self._changes.watch(WEBHOOKS) as due:
            while not self._stopping.is_set():
                due.clear()  # before looking: a job completed from here on is noticed
                try:
                    if not self._begin_one():
                        due.wait(self._policy.poll_s)
                except DatabaseUnavailable:
                    logger.exception("webhooks cannot be looked up; they are tried again")
                    self._stopping.wait(_RETRY_S)

    def _begin_one(self) -> bool:
        """Send one webhook from a thread; False if none is due, or there is no place for it."""
        if self._receivers.is_full():
            return False
        delivery = self._outbox.claim(self._policy.lease_s, self._receivers.busy())
        if delivery is None:
            return False
        self._receivers.enter(delivery.receiver)
        name = f"lightfill webhook {delivery.request_id}"
        try:
            threading.Thread(target=self._deliver, args=(delivery,), name=name, daemon=True).start()
        except RuntimeError as error:  # Python 3.12 starts no thread while the interpreter ends
            logger.warning("the webhook of request %s waits on: %s", delivery.request_id, error)
            self._receivers.leave(delivery.receiver)
            self._stopping.wait(_RETRY_S)
        return True

    def _deliver(self, delivery: Delivery) -> None:
        """One attempt, in a thread of its own."""
        over = time.monotonic() + self._policy.lease_s
        try:
            problem = self._attempt(delivery)
            self._record(delivery, problem, over)
        finally:
            self._receivers.leave(delivery.receiver)
            self._changes.announce(WEBHOOKS)

    def _attempt(self, delivery: Delivery) -> NotPosted | None:
        """None if it was delivered, else what was in the way."""
        try:
            body = webhook_body(delivery)
            signed = self._signer().headers(
                delivery.request_id, delivery.owner or ANYBODY, int(time.time()), body
            )
            self._poster.post(delivery.url, body, [("Content-Type", "application/json"), *signed])
        except NotPosted as problem:
            return problem
        except Exception:
            logger.exception("the webhook of request %s cannot be sent", delivery.request_id)
            return NotPosted("it could not be sent; the server's log says why")
        return None

    def _record(self, delivery: Delivery, problem: NotPosted | None, over: float) -> None:
        """Store the outcome, again and again while the database is away and the lease lasts."""
        while True:
            try:
                outcome = self._stored(delivery, problem)
            except DatabaseUnavailable:
                logger.exception("an attempt for request %s is not noted", delivery.request_id)
                if time.monotonic() > over or self._stopping.wait(_RETRY_S):
                    return
            else:
                self._told(outcome)
                return

    def _stored(self, delivery: Delivery, problem: NotPosted | None) -> WebhookOutcome:
        if problem is None:
            self._outbox.delivered(delivery)
            return "delivered"
        delays = self._policy.retry_delays_s
        if problem.hopeless or delivery.failures >= len(delays):
            self._outbox.give_up(delivery, str(problem))
            logger.warning("webhook of request %s given up: %s", delivery.request_id, problem)
            return "given_up"
        jitter = random.uniform(1 - self._policy.jitter, 1 + self._policy.jitter)  # noqa: S311
        self._outbox.retry(delivery, str(problem), delays[delivery.failures] * jitter)
        logger.info("webhook of request %s: %s", delivery.request_id, problem)
        return "failed"
