"""The outbox: which jobs are in it, who may send them, and what becomes of them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select

from lightfill.engine.fal.jobs_table import jobs, webhooks
from lightfill.engine.fal.outbox import Delivery, Outbox
from lightfill.engine.fal.queue import JobQueue
from lightfill.engine.fal.worker import Worker

URL = "https://a.test/told?job=1"
LEASE_S = 60.0
DAY_S = 86_400.0


def submit(queue: JobQueue, url: str | None = URL, **options: Any) -> str:
    return queue.submit("app", {"prompt": "a tiger"}, webhook_url=url, **options)


def finished(queue: JobQueue, url: str | None = URL, **options: Any) -> str:
    """A job that a worker has completed."""
    request_id = submit(queue, url, **options)
    claim = queue.claim("worker")
    assert claim is not None
    assert queue.finish(claim, 200, {"seed": 7}, {})
    return request_id


def outbox_of(queue: JobQueue) -> Outbox:
    return Outbox(queue.database)


def taken(outbox: Outbox, busy: set[str] | None = None) -> Delivery:
    delivery = outbox.claim(LEASE_S, busy or set())
    assert delivery is not None
    return delivery


def count(queue: JobQueue, table: Any) -> int:
    query = select(func.count()).select_from(table)
    return queue.database.read(lambda connection: int(connection.scalar(query) or 0))


def by_worker(queue: JobQueue, clock: Any, url: str | None) -> str:
    return finished(queue, url)


def by_cancel_in_queue(queue: JobQueue, clock: Any, url: str | None) -> str:
    request_id = submit(queue, url)
    queue.cancel(request_id)
    return request_id


def by_start_timeout(queue: JobQueue, clock: Any, url: str | None) -> str:
    request_id = submit(queue, url, start_timeout=5)
    clock.now += 6
    assert queue.status(request_id).error_type == "startup_timeout"
    return request_id


def by_lost_workers(queue: JobQueue, clock: Any, url: str | None) -> str:
    request_id = submit(queue, url)
    for n in range(2):
        assert queue.claim(f"worker {n}")
        clock.now += 31
        queue.status(request_id)
    return request_id


def by_cancel_and_a_lost_worker(queue: JobQueue, clock: Any, url: str | None) -> str:
    request_id = submit(queue, url)
    assert queue.claim("worker")
    queue.cancel(request_id)
    clock.now += 31
    assert queue.claim("another") is None
    return request_id


def by_cancel_and_a_worker_that_stops(queue: JobQueue, clock: Any, url: str | None) -> str:
    request_id = submit(queue, url)
    claim = queue.claim("worker")
    assert claim
    queue.cancel(request_id)
    assert queue.give_back(claim)
    return request_id


ENDINGS: dict[Callable[..., str], int] = {
    by_worker: 200,
    by_cancel_in_queue: 499,
    by_start_timeout: 504,
    by_lost_workers: 503,
    by_cancel_and_a_lost_worker: 499,
    by_cancel_and_a_worker_that_stops: 499,
}


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
def test_however_a_job_ends_its_webhook_is_in_the_outbox(
    open_queue: Any, clock: Any, end: Callable[..., str]
) -> None:
    queue = open_queue(clock=clock, max_losses=2)
    outbox = outbox_of(queue)
    end(queue, clock, None)
    assert outbox.claim(LEASE_S) is None, "it has no webhook"
    request_id = end(queue, clock, URL)
    delivery = taken(outbox)
    assert (delivery.request_id, delivery.url) == (request_id, URL)
    assert delivery.receiver == "a.test"
    assert delivery.status_code == ENDINGS[end] == queue.result(request_id).status_code
    assert outbox.claim(LEASE_S) is None, "once"


def test_a_job_that_has_not_ended_owes_nothing(queue: JobQueue) -> None:
    outbox = outbox_of(queue)
    submit(queue)
    assert outbox.claim(LEASE_S) is None
    claim = queue.claim("worker")
    assert claim
    assert outbox.claim(LEASE_S) is None
    assert queue.give_back(claim)
    assert outbox.claim(LEASE_S) is None
    assert count(queue, webhooks) == 0


def test_a_result_that_came_too_late_is_not_told(queue: JobQueue, clock: Any) -> None:
    submit(queue)
    late = queue.claim("late")
    clock.now += 31
    again = queue.claim("next")
    assert late
    assert again
    assert queue.finish(again, 200, {"by": "next"}, {})
    assert not queue.finish(late, 200, {"by": "late"}, {})
    outbox = outbox_of(queue)
    assert '"next"' in taken(outbox).result
    assert outbox.claim(LEASE_S) is None


def test_what_is_not_json_is_told_as_such(open_queue: Any) -> None:
    queue = open_queue()  # with the database's own clock: the worker polls
    outbox = outbox_of(queue)
    with Worker(queue, lambda *_: (200, {"loss": float("nan")}, {})):
        request_id = submit(queue)
        while queue.status(request_id).state != "COMPLETED":
            queue.wait(request_id, 1)
    delivery = taken(outbox)
    assert delivery.status_code == 500
    assert "not JSON compliant" in str(delivery.payload_error)


def test_a_lease_that_runs_out_lets_another_send_it(queue: JobQueue, clock: Any) -> None:
    outbox = outbox_of(queue)
    finished(queue)
    dead = taken(outbox)
    clock.now += LEASE_S - 1
    assert outbox.claim(LEASE_S) is None
    clock.now += 1
    alive = taken(outbox)
    assert (alive.request_id, alive.failures) == (dead.request_id, 0), "nothing failed"
    assert not outbox.delivered(dead), "it is not its own any more"
    assert not outbox.retry(dead, "no", 1)
    assert not outbox.give_up(dead, "no")
    assert outbox.delivered(alive)
    clock.now += DAY_S
    assert outbox.claim(LEASE_S) is None


def test_failures_count_and_wait(queue: JobQueue, clock: Any) -> None:
    outbox = outbox_of(queue)
    finished(queue)
    for failures in range(3):
        delivery = taken(outbox)
        assert delivery.failures == failures
        assert outbox.retry(delivery, "it is down", 100)
        clock.now += 99
        assert outbox.claim(LEASE_S) is None
        clock.now += 1
    assert taken(outbox).failures == 3


def test_who_gives_up_says_why_in_the_jobs_log(queue: JobQueue, clock: Any) -> None:
    outbox = outbox_of(queue)
    request_id = finished(queue)
    assert outbox.give_up(taken(outbox), "a.test is not on the public internet")
    clock.now += DAY_S
    assert outbox.claim(LEASE_S) is None
    (log,) = queue.status(request_id, with_logs=True).logs or []
    assert log["message"] == "webhook given up: a.test is not on the public internet"
    assert log["level"] == "WARN"


def test_the_oldest_first_but_not_to_busy_receivers(queue: JobQueue, clock: Any) -> None:
    outbox = outbox_of(queue)
    slow = []
    for n in range(3):
        slow.append(finished(queue, f"http://SLOW.test:80/{n}"))
        clock.now += 1
    quick = finished(queue, "http://quick.test:8080/")
    assert taken(outbox).request_id == slow[0]
    assert taken(outbox, {"slow.test"}).request_id == quick
    assert outbox.claim(LEASE_S, {"slow.test"}) is None
    assert taken(outbox, {"quick.test:8080"}).request_id == slow[1]


def test_servers_that_look_together_share_the_webhooks(open_queue: Any) -> None:
    queues = [open_queue() for _ in range(4)]
    expected = {finished(queues[0]) for _ in range(24)}

    def take_all(queue: JobQueue) -> list[str]:
        outbox = outbox_of(queue)
        found = [outbox.claim(LEASE_S) for _ in range(40)]
        return [delivery.request_id for delivery in found if delivery is not None]

    with ThreadPoolExecutor(4) as threads:
        taken_by_all = [name for each in threads.map(take_all, queues) for name in each]
    taken_by_all += take_all(queues[0])  # PostgreSQL: rows another was just looking at were skipped
    assert sorted(taken_by_all) == sorted(expected)


@pytest.mark.parametrize("end", ["delivered", "given up"])
def test_a_job_stays_until_its_webhook_is_settled(queue: JobQueue, clock: Any, end: str) -> None:
    outbox = outbox_of(queue)
    finished(queue)
    finished(queue, None)
    clock.now += 2 * 3600  # the queue keeps jobs for an hour
    assert queue.sweep() == 1, "the one without a webhook"
    delivery = taken(outbox)
    assert queue.sweep() == 0, "it is being sent"
    assert outbox.delivered(delivery) if end == "delivered" else outbox.give_up(delivery, "no")
    assert queue.sweep() == 1
    assert (count(queue, jobs), count(queue, webhooks)) == (0, 0)


def test_a_webhook_that_no_server_comes_for_keeps_its_job_for_a_week(
    queue: JobQueue, clock: Any
) -> None:
    """Jobs of programs that run in process have webhooks that nobody may ever send."""
    request_id = finished(queue)
    clock.now += 6.9 * DAY_S
    assert queue.sweep() == 0
    assert queue.result(request_id).body == {"seed": 7}
    clock.now += 0.2 * DAY_S
    assert queue.sweep() == 1
    assert outbox_of(queue).claim(LEASE_S) is None


def test_the_load_counts_what_is_to_be_done(queue: JobQueue) -> None:
    outbox = outbox_of(queue)
    assert queue.load() == (0, 0, 0)
    finished(queue)
    finished(queue)
    for _ in range(3):
        submit(queue)
    assert queue.claim("worker")
    outbox.delivered(taken(outbox))
    assert queue.load() == (2, 1, 1)
