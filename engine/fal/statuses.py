"""What fal's client says about a request: Queued, InProgress, Completed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Status:
    """Base of the three states a request is in (fal protocol, section 5.2)."""


@dataclass
class Queued(Status):
    """The request waits; `position` requests are ahead of it."""

    position: int


@dataclass
class InProgress(Status):
    """The request is being worked on. logs: a list if they were asked for, else None."""

    logs: list[dict[str, Any]] | None


@dataclass
class Completed(Status):
    """The request has ended, well or not: its result tells.

    logs: a list if they were asked for, else None. metrics: {"inference_time": seconds, ...}.
    error, error_type: why it failed; None if it did not.
    """

    logs: list[dict[str, Any]] | None
    metrics: dict[str, Any]
    error: str | None = None
    error_type: str | None = None


def parse_status(body: Mapping[str, Any]) -> Status:
    """The status in the body of a status reply; raises ValueError for a state fal does not have."""
    state = body["status"]
    if state == "IN_QUEUE":
        return Queued(position=body["queue_position"])
    if state == "IN_PROGRESS":
        return InProgress(logs=body["logs"])
    if state == "COMPLETED":
        return Completed(
            logs=body["logs"],
            metrics=body.get("metrics") or {},
            error=body.get("error"),
            error_type=body.get("error_type"),
        )
    raise ValueError(f"Unknown status: {state}")
