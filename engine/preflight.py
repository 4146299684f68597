"""Whether a request's size can be run at all: asked before a photo is decoded."""

from collections.abc import Mapping, Sequence
from typing import Any

from .engine_key import sizes_for
from .sessions import Session


def require_size(
    sessions: Mapping[str, Session | None],
    size: tuple[int, int],
    batches: Sequence[Sequence[Any]],
) -> None:
    """Raise unless every session, by role, can run pictures of `size` in batches of these lengths.

    size: (width, height) in pixels. Raises EngineNotBuilt, EngineStale or EngineCorrupt for the
    first that lacks an engine.
    """
    for role, session in sessions.items():
        if session is not None:
            for batch in sorted({len(batch) for batch in batches}):
                session.require(sizes_for(role, *size, batch=batch))
