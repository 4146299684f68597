"""An endpoint that does at once what its prompt says, in place of one with a model."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from lightfill.engine.errors import Cancelled, InvalidInput

OUTPUT = {"images": [], "timings": {}, "seed": 1, "has_nsfw_concepts": [], "prompt": "p"}


class ScriptedEndpoint:
    """Stands in for Endpoint: what a job does is its prompt.

    "wait" logs "step 1/2" and goes on when `gate` is set or the job is cancelled; "refuse" is an
    InvalidInput, "break" an unexpected error; anything else returns OUTPUT after two logs.
    """

    gate: threading.Event
    ran: list[dict[str, Any]]
    closed: int

    def __init__(self, *_: object) -> None: ...

    def warm_up(self) -> None: ...

    def run(
        self,
        arguments: Mapping[str, Any],
        *,
        on_log: Callable[..., None],
        cancelled: Callable[[], bool],
        owner: str | None,
    ) -> dict[str, Any]:
        self.ran.append(dict(arguments))
        prompt = arguments.get("prompt")
        if prompt == "refuse":
            raise InvalidInput("mask_url", "is not there; pass one")
        if prompt == "break":
            raise RuntimeError("secret")
        on_log("step 1/2", {"colour": "red"})
        while prompt == "wait" and not self.gate.wait(0.01):
            if cancelled():
                raise Cancelled("cancelled")
        on_log("step 2/2")
        return OUTPUT

    def close(self) -> None:
        type(self).closed += 1


def fresh() -> type[ScriptedEndpoint]:
    """A class whose gate is closed and which has run nothing."""
    return type(
        "Scripted", (ScriptedEndpoint,), {"gate": threading.Event(), "ran": [], "closed": 0}
    )
