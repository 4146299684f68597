"""Waiting for a request's changes in asyncio: no thread waits, other processes are polled."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress

from ..fal.reply import Reply
from .site import Site

POLL_S = 0.25
"""How soon a change made by another process, or a caller who has gone, is noticed."""


@contextmanager
def _told(site: Site, request_id: str) -> Iterator[asyncio.Event]:
    """An event that is set, in this loop, whenever this process changes the request."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(changed.set)

    with site.queue.changes.listen(request_id, tell):
        yield changed


async def follow(
    site: Site, request_id: str, *, logs: bool, owner: str | None
) -> AsyncGenerator[Reply | None, None]:
    """The status reply now and after every change, ending with COMPLETED or an error.

    None: nothing has changed for POLL_S, so that a listener can see whether anybody is there. Ends
    early when the server stops.
    """
    version = None
    with _told(site, request_id) as changed:
        while not site.stopping.is_set():
            changed.clear()  # before looking: a change from here on is noticed
            reply = await site.status(request_id, logs=logs, owner=owner)
            if reply.seen is None or reply.seen.version != version:
                yield reply
            if reply.seen is None or reply.status_code == 200:
                return
            version = reply.seen.version
            try:
                await asyncio.wait_for(changed.wait(), POLL_S)
            except TimeoutError:
                yield None
