"""The one implementation behind both clients, over a scripted transport and with many callers."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pytest

from lightfill.engine.fal import retries
from lightfill.engine.fal.async_client import AsyncClient
from lightfill.engine.fal.calls import Calls, Following
from lightfill.engine.fal.client import SyncClient
from lightfill.engine.fal.client_errors import FalClientHTTPError, FalClientTimeoutError
from lightfill.engine.fal.modes import Blocking, Cooperative, finish, iterate
from lightfill.engine.fal.reply import Reply
from lightfill.engine.fal.statuses import InProgress, Queued, parse_status
from lightfill.engine.fal.transport import Order

from .conftest import Somewhere

APP = "fal-ai/fast-lightning-sdxl/inpainting"
ORDER = Order(application=APP, arguments={})
URLS = {
    "request_id": "id", "response_url": "r", "status_url": "s", "cancel_url": "c",
}  # fmt: skip
QUEUED = {"status": "IN_QUEUE", "queue_position": 0, "logs": None, "metrics": {}, **URLS}
DONE = {"status": "COMPLETED", "logs": None, "metrics": {}, **URLS}


@pytest.fixture
def fal(somewhere: Somewhere) -> ModuleType:
    return somewhere.start()


class Scripted:
    """A transport that answers each kind of call with the next of its replies, then the last."""

    def __init__(self, **replies: list[Reply]) -> None:
        self.replies = {"submit": [Reply(200, QUEUED)], "cancel": [Reply(202, {})]} | replies
        self.asked: list[str] = []

    def _next(self, call: str) -> Reply:
        self.asked.append(call)
        left = self.replies[call]
        return left.pop(0) if len(left) > 1 else left[0]

    def request_url(self, application: str, request_id: str) -> str:
        return f"{application}/{request_id}"

    def prepared(self, order: Order) -> Order:
        self.asked.append("prepared")
        return order

    def submit(self, order: Order, **_: float) -> Reply:
        return self._next("submit")

    def status(self, status_url: str, *, logs: bool, **_: float) -> Reply:
        return self._next("status")

    def result(self, response_url: str, **_: float) -> Reply:
        return self._next("result")

    def cancel(self, cancel_url: str, **_: float) -> Reply:
        return self._next("cancel")

    def wait(self, status_url: str, seen: Reply, seconds: float) -> None:
        time.sleep(min(seconds, 0.001))

    def upload(self, data: Iterable[bytes], *_: Any) -> Reply:
        return self._next("upload")


def both(work: Callable[[Calls], Any], transport: Scripted) -> list[Any]:
    """What `work` gives in both modes; the transport must answer twice alike."""

    async def cooperative() -> Any:
        return await work(Calls(lambda: transport, Cooperative()))

    return [finish(work(Calls(lambda: transport, Blocking()))), asyncio.run(cooperative())]


def test_both_modes_are_one_implementation() -> None:
    transport = Scripted(status=[Reply(200, DONE)], result=[Reply(200, {"seed": 1})])
    assert both(lambda each: each.answer(ORDER, Following()), transport) == [{"seed": 1}] * 2
    half = len(transport.asked) // 2
    assert transport.asked[:half] == ["prepared", "submit", "status", "result"]
    assert transport.asked[half:] == transport.asked[:half]


@pytest.mark.parametrize("status_code", [408, 409, 429])
def test_what_fal_client_repeats_is_repeated_and_arguments_are_stored_once(
    status_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.0)
    busy = Reply(status_code, {"detail": "busy"})
    transport = Scripted(submit=[busy] * 9 + [Reply(200, QUEUED)])
    assert finish(Calls(lambda: transport, Blocking()).submit(ORDER)).request_id == "id"
    assert transport.asked == ["prepared"] + ["submit"] * 10
    always = Scripted(submit=[busy])
    with pytest.raises(FalClientHTTPError, match="busy"):
        finish(Calls(lambda: always, Blocking()).submit(ORDER))
    assert always.asked == ["prepared"] + ["submit"] * 10


@pytest.mark.parametrize("status_code", [400, 404, 422, 500, 502, 503, 504])
def test_other_errors_are_raised_at_once(status_code: int) -> None:
    transport = Scripted(submit=[Reply(status_code, "no JSON object", {"x-fal-error-type": "t"})])
    with pytest.raises(FalClientHTTPError, match="no JSON object") as caught:
        finish(Calls(lambda: transport, Blocking()).submit(ORDER))
    assert (caught.value.status_code, caught.value.error_type) == (status_code, "t")
    assert transport.asked == ["prepared", "submit"]


def test_the_delays_are_fal_client_s(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    transport = Scripted(submit=[Reply(429, {})])
    with pytest.raises(FalClientHTTPError):
        finish(Calls(lambda: transport, Blocking()).submit(ORDER))
    wanted = [0.1 * 2**k for k in range(9)]
    assert all(0.5 * w <= s <= min(1.5 * w, 30) for w, s in zip(wanted, slept, strict=True))


def test_an_unknown_state_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Unknown status: PAUSED"):
        parse_status({"status": "PAUSED"})


def test_an_interrupted_run_is_cancelled_and_an_interrupted_subscribe_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Scripted, "wait", interrupted)
    for abandon in (True, False):
        transport = Scripted(status=[Reply(202, QUEUED)])
        with pytest.raises(KeyboardInterrupt):
            finish(Calls(lambda t=transport: t, Blocking()).answer(  # type: ignore[misc]
                ORDER, Following(abandon=abandon)))  # fmt: skip
        assert ("cancel" in transport.asked) is abandon


def test_a_cancelled_task_cancels_its_run() -> None:
    transport = Scripted(status=[Reply(202, QUEUED)])

    async def main() -> None:
        work = Calls(lambda: transport, Cooperative()).answer(ORDER, Following(abandon=True))
        task = asyncio.create_task(work)
        while "status" not in transport.asked:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert transport.asked[-1] == "cancel"


def test_a_timeout_stands_even_if_the_request_cannot_be_cancelled() -> None:
    transport = Scripted(status=[Reply(202, QUEUED)], cancel=[Reply(400, {"status": "x"})])
    with pytest.raises(FalClientTimeoutError):
        finish(Calls(lambda: transport, Blocking()).answer(ORDER, Following(timeout=0.05)))


def log(message: str) -> dict[str, Any]:
    return {"message": message}


def test_a_stream_gives_new_logs_then_the_output() -> None:
    running = {**QUEUED, "status": "IN_PROGRESS"}
    statuses = [
        Reply(202, {**QUEUED, "logs": []}),
        Reply(202, {**running, "logs": [log("a")]}),
        Reply(202, {**running, "logs": [log("a")]}),
        Reply(200, {**DONE, "logs": [log("a"), log("b"), log("c")]}),
    ]
    transport = Scripted(status=statuses, result=[Reply(200, {"seed": 1})])
    events = list(iterate(Calls(lambda: transport, Blocking()).stream(ORDER, None)))
    assert [event.get("logs") for event in events] == [[log("a")], [log("b"), log("c")], None]
    assert events[-1] == {"seed": 1}
    assert "cancel" not in transport.asked


def test_a_stream_nobody_listens_to_is_cancelled() -> None:
    running = {**QUEUED, "status": "IN_PROGRESS", "logs": [log("a")]}
    transport = Scripted(status=[Reply(202, running)])
    events = iterate(Calls(lambda: transport, Blocking()).stream(ORDER, None))
    assert next(events)["logs"] == [log("a")]
    events.close()  # type: ignore[attr-defined]
    assert transport.asked[-1] == "cancel"

    async def main() -> None:
        stream = Calls(lambda: transport, Cooperative()).stream(ORDER, None)
        assert (await anext(stream))["logs"] == [log("a")]
        await stream.aclose()

    transport.asked.clear()
    asyncio.run(main())
    assert transport.asked[-1] == "cancel"


def test_a_silent_stream_times_out_and_is_cancelled() -> None:
    transport = Scripted(status=[Reply(202, {**QUEUED, "logs": []})])
    with pytest.raises(FalClientTimeoutError):
        list(iterate(Calls(lambda: transport, Blocking()).stream(ORDER, 0.02)))
    assert transport.asked[-1] == "cancel"


def test_a_stream_s_path_is_the_endpoint_s(fal: ModuleType, scripted: Any) -> None:
    assert list(fal.stream(APP, {"prompt": "x"}))[-1]["seed"] == 1
    base = APP.removesuffix("/inpainting")
    events = list(fal.stream(base, {"prompt": "x"}, path="/inpainting/stream"))
    assert events[-1]["seed"] == 1
    with pytest.raises(FalClientHTTPError):
        list(fal.stream(APP, {"prompt": "refuse"}))


def test_a_get_has_no_arguments(fal: ModuleType, scripted: Any) -> None:
    fal.run(APP, {"prompt": "refuse"}, method="GET")
    assert scripted.ran == [{}]


def test_callbacks_are_told_in_order_and_their_errors_reach_the_caller(
    fal: ModuleType, scripted: Any
) -> None:
    told: list[Any] = []
    scripted.gate.set()
    fal.subscribe(
        APP, {"prompt": "wait"}, with_logs=True, on_enqueue=told.append, on_queue_update=told.append
    )
    assert isinstance(told[0], str)
    kinds = [type(each) for each in told[1:]]
    assert kinds == sorted(kinds, key=[Queued, InProgress, fal.Completed].index)
    assert kinds[-1] is fal.Completed

    def complain(_: object) -> None:
        raise LookupError("mine")

    for callback in ("on_enqueue", "on_queue_update"):
        with pytest.raises(LookupError, match="mine"):
            fal.subscribe(APP, {"prompt": "x"}, **{callback: complain})


def test_many_callers_in_one_loop_do_not_block_it(fal: ModuleType, scripted: Any) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def main() -> list[Any]:
        ticking = asyncio.create_task(tick())
        client = AsyncClient()
        waiting = client.run(APP, {"prompt": "wait"})
        threading.Timer(0.5, scripted.gate.set).start()
        many = [client.subscribe(APP, {"prompt": "x"}, interval=0.02) for _ in range(60)]
        results = await asyncio.gather(waiting, *many)
        ticking.cancel()
        return results

    assert len(asyncio.run(main())) == 61
    assert len(scripted.ran) == 61
    assert ticks >= 20


def test_the_blocking_client_works_inside_a_running_loop(fal: ModuleType, scripted: Any) -> None:
    async def main() -> Any:
        list(fal.stream(APP, {"prompt": "x"}))
        return fal.run(APP, {"prompt": "x"})

    assert asyncio.run(main())["seed"] == 1


def test_a_change_is_noticed_long_before_the_interval_in_a_thread(
    fal: ModuleType, scripted: Any
) -> None:
    fal.run(APP, {"prompt": "x"})
    started = time.monotonic()
    fal.subscribe(APP, {"prompt": "x"}, interval=30)
    assert time.monotonic() - started < 25


def test_a_coroutine_that_gives_way_is_no_blocking_call() -> None:
    with pytest.raises(RuntimeError, match="gave way"):
        finish(asyncio.sleep(0))


def test_clients_are_values() -> None:
    assert SyncClient(key="a") == SyncClient(key="a") != SyncClient(key="b")
    assert hash(AsyncClient(key="a")) == hash(AsyncClient(key="a"))
    assert "secret" not in repr(SyncClient(key="secret")) + repr(AsyncClient(key="secret"))
