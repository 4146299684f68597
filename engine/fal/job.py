"""What the queue says about a job: its status, its result, and a worker's claim on it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from ..errors import InvalidInput

State = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
Priority = Literal["normal", "low"]
Level = Literal["STDERR", "STDOUT", "ERROR", "INFO", "WARN", "DEBUG"]

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""PostgreSQL's text holds no NUL, UTF-8 no half of a surrogate pair."""


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """A job at one moment (fal protocol, section 5.2).

    position: how many requests are ahead of it; None unless it is IN_QUEUE.
    logs: fal's log entries, oldest first; None unless they were asked for.
    metrics: {"inference_time": seconds, ...} of a completed job, else empty.
    error, error_type: of a completed job that failed, else None.
    version: grows whenever the state, the logs or a wish to cancel change; see `JobQueue.wait`.
    """

    request_id: str
    application: str
    state: State
    version: int
    position: int | None = None
    logs: list[dict[str, Any]] | None = None
    metrics: dict[str, float]
    error: str | None = None
    error_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """A completed job's answer: the HTTP status and the body fal would send."""

    request_id: str
    status_code: int
    body: dict[str, Any]
    error_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job handed to one worker, until its lease runs out without a heartbeat.

    number: counts this job's claims; a worker whose number is no longer the last has lost it.
    waited_s: from its submission to this claim.
    """

    request_id: str
    application: str
    path: str
    arguments: dict[str, Any]
    owner: str | None
    webhook_url: str | None
    worker: str
    sequence: int
    number: int
    waited_s: float


class OnLog(Protocol):
    """Told what happens in a job; `labels` are more about it, by name, for fal's log entry."""

    def __call__(self, message: str, labels: Mapping[str, str] | None = None) -> None: ...


def log_entry(
    timestamp: float, message: str, level: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    """fal's log entry: the union of its documentation and its clients' types (section 5.2)."""
    moment = datetime.fromtimestamp(timestamp, UTC).replace(tzinfo=None)
    return {
        "timestamp": moment.isoformat(timespec="microseconds"),
        "message": message,
        "level": level,
        "source": "USER",
        "labels": dict(labels),
    }


def failure(status_code: int, body: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """`error` and `error_type` of a status, read from fal's error body; (None, None) for success.

    A list of mistakes is summed up by its first (section 8).
    """
    if status_code < 400:
        return None, None
    detail, kind = body.get("detail"), body.get("error_type")
    if isinstance(detail, list) and detail and isinstance(detail[0], Mapping):
        kind = kind or detail[0].get("type")
        where = ".".join(map(str, detail[0].get("loc", ())))
        detail = f"{where}: {detail[0].get('msg')}"
    return str(detail or f"Invalid status code: {status_code}"), str(kind or "internal_error")


def as_json(value: Mapping[str, Any]) -> str:
    """Compact JSON in ASCII, which every database holds, whatever text is inside.

    Raises TypeError or ValueError for what JSON cannot hold: NaN, and lists nested too deep.
    """
    try:
        return json.dumps(dict(value), allow_nan=False, separators=(",", ":"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def is_storable(text: str) -> bool:
    """Whether both databases can hold `text` as it is."""
    return _UNSTORABLE.search(text) is None


def storable(text: str) -> str:
    """`text` with what no database holds replaced."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def encoded_arguments(arguments: Mapping[str, Any]) -> str:
    """A request's arguments as JSON; InvalidInput if they are none."""
    try:
        return as_json(arguments)
    except (TypeError, ValueError) as error:
        raise InvalidInput("arguments", f"are not JSON: {error}; pass plain values") from error
