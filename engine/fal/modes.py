"""How the one client waits: by blocking its thread, or by giving way to the event loop.

The client is written once, in coroutines (calls.py). A coroutine that never gives way can be run by
anyone: `finish` does, without an event loop, and that is the synchronous client.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Mode(Protocol):
    """What differs between the synchronous and the asynchronous client."""

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function, which may block, returns."""
        ...

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        ...

    async def wait(self, change: Callable[[float], None], seconds: float) -> None:
        """Let time pass, at most until `change`, which takes the seconds and blocks, returns."""
        ...

    async def tell(self, callback: Callable[[Any], Any] | None, value: Any) -> None:
        """Give a caller's callback, if there is one, the value."""
        ...


class Blocking:
    """In the caller's thread; its coroutines never give way."""

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    async def wait(self, change: Callable[[float], None], seconds: float) -> None:
        change(seconds)

    async def tell(self, callback: Callable[[Any], Any] | None, value: Any) -> None:
        if callback is not None:
            callback(value)


class Cooperative:
    """In asyncio. What blocks runs in the loop's threads; waiting takes none."""

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(function, *args, **kwargs)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, change: Callable[[float], None], seconds: float) -> None:  # noqa: ARG002
        await asyncio.sleep(seconds)

    async def tell(self, callback: Callable[[Any], Any] | None, value: Any) -> None:
        if callback is not None and inspect.isawaitable(told := callback(value)):
            await told


def finish(work: Awaitable[T]) -> T:
    """The outcome of a coroutine in `Blocking` mode."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as done:
        outcome: T = done.value
        return outcome
    raise RuntimeError("a blocking call gave way to an event loop")


def iterate(events: AsyncGenerator[T, None]) -> Iterator[T]:
    """The items of an asynchronous generator in `Blocking` mode."""
    try:
        while True:
            try:
                item = finish(anext(events))
            except StopAsyncIteration:
                return
            yield item
    finally:
        finish(events.aclose())
