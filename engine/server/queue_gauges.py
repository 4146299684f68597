"""What the job database holds at the moment of a scrape."""

from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ..errors import DatabaseUnavailable
from ..fal.queue import JobQueue


class QueueGauges(Collector):
    """Gauges read from the database. All servers on it report the same: do not add them up."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def describe(self) -> Iterable[Metric]:
        return []  # or registering would read the database

    def collect(self) -> Iterator[Metric]:
        try:
            load = self._queue.load()
        except DatabaseUnavailable:  # the scrape tells so, and the rest of what it can
            yield _gauge("lightfill_database_up", "Whether the job database answers.", 0)
            return
        yield _gauge("lightfill_database_up", "Whether the job database answers.", 1)
        yield _gauge("lightfill_queue_depth", "Jobs that wait.", load.waiting)
        yield _gauge("lightfill_jobs_running", "Jobs that workers have.", load.running)
        yield _gauge("lightfill_webhooks_pending", "Webhooks to be delivered.", load.webhooks)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)
