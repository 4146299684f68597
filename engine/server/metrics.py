"""What one server counts for Prometheus. Each server has a registry of its own.

Every label has few values, whatever callers send: routes are templates, and methods, statuses,
stages and error types are those this program knows.
"""

import platform
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)

from ... import __version__
from ..fal.job import Claim, failure
from ..fal.observer import JobObserver
from ..fal.settings import Settings
from ..result import Timings
from .webhooks import WebhookOutcome

OTHER = "other"
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}
_STAGES = {"fetch", "inference", "upload", *(field.name for field in fields(Timings))} - {"total"}
_MAX_ERROR_TYPES = 64
_WAIT_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_STAGE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_HTTP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics(JobObserver):
    """Counters of one server, fed by its queue, its HTTP layer and its webhooks. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._waits = Histogram(
            "lightfill_job_wait_seconds",
            "From a job's submission to its first start, of jobs that this server started.",
            buckets=_WAIT_S, registry=registry,
        )  # fmt: skip
        self._stages = Histogram(
            "lightfill_job_stage_seconds",
            "Time in one stage of a job, of jobs that this server ran; inference is the whole.",
            ["stage"], buckets=_STAGE_S, registry=registry,
        )  # fmt: skip
        self._outcomes = Counter(
            "lightfill_jobs",
            "Jobs that this server completed, by the result's HTTP status and fal's error type.",
            ["status", "error_type"], registry=registry,
        )  # fmt: skip
        self._requests = Counter(
            "lightfill_http_requests",
            "Requests answered.",
            ["method", "route", "status"], registry=registry,
        )  # fmt: skip
        self._latencies = Histogram(
            "lightfill_http_request_seconds",
            "From a request's arrival to its reply's end; streams last as long as their job.",
            ["method", "route"], buckets=_HTTP_S, registry=registry,
        )  # fmt: skip
        self._webhooks = Counter(
            "lightfill_webhook_deliveries",
            "Attempts to deliver a webhook; failed ones are tried again.",
            ["outcome"], registry=registry,
        )  # fmt: skip
        build = Gauge(
            "lightfill_build_info", "1, and what this server is.",
            ["version", "python", "device"], registry=registry,
        )  # fmt: skip
        build.labels(__version__, platform.python_version(), settings.device).set(1)
        self._error_types: set[str] = set()

    def started(self, claim: Claim) -> None:
        if claim.number == 1:  # later waits are for a worker that died
            self._waits.observe(max(0.0, claim.waited_s))

    def completed(self, status_code: int, body: Mapping[str, Any]) -> None:
        _, error_type = failure(status_code, body)
        self._outcomes.labels(status_code, self._bounded(error_type or "")).inc()
        timings = body.get("timings")
        for stage, seconds in timings.items() if isinstance(timings, Mapping) else ():
            if stage in _STAGES and isinstance(seconds, int | float):
                self._stages.labels(stage).observe(seconds)

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """A reply has ended. route: the template of the request's path; None if no route has it."""
        method = method if method in _METHODS else OTHER
        self._requests.labels(method, route or OTHER, status).inc()
        self._latencies.labels(method, route or OTHER).observe(seconds)

    def attempted(self, outcome: WebhookOutcome) -> None:
        """A webhook was sent, or was to be."""
        self._webhooks.labels(outcome).inc()

    def _bounded(self, error_type: str) -> str:
        """The error type; `other` once there are more than anybody ever gives on purpose."""
        if len(self._error_types) < _MAX_ERROR_TYPES:
            self._error_types.add(error_type)
        return error_type if error_type in self._error_types else OTHER
