"""Times on the GPU: three parts of every run by events, on a simulated GPU whose clock is real."""

import pytest
from simulated_gpu import Bench, feed_of
from simulated_gpu.cuda import Cuda, cudaError_t

from lightfill.engine.errors import InvalidInput, SessionError
from lightfill.engine.sessions import SessionOptions
from lightfill.engine.sessions.device_times import DeviceTime


def test_every_run_is_timed_in_three_parts(bench: Bench) -> None:
    bench.build("unet")
    found: list[DeviceTime] = []
    session = bench.open(on_device_time=found.append)
    for seed in range(3):  # a warm-up, then replays of a graph
        session.run(feed_of("unet", seed=seed))
    assert [time.component for time in found] == ["unet"] * 3
    for time in found:  # the simulation computes in the execution, and copies around it
        assert time.execution_ms > time.upload_ms >= 0
        assert time.execution_ms > time.download_ms >= 0
    assert bench.machine.timers == 0


def test_nothing_is_recorded_unless_asked(bench: Bench) -> None:
    bench.build("unet")
    bench.open().run(feed_of("unet"))
    assert ("cuda.bindings.runtime", "cudaEventRecord") not in bench.machine.touched


def test_a_run_that_fails_reports_nothing_and_leaves_no_event(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.build("unet")
    found: list[DeviceTime] = []
    session = bench.open(on_device_time=found.append)
    session.run(feed_of("unet"))
    bench.machine.failing = "unet"
    with pytest.raises(SessionError):
        session.run(feed_of("unet", seed=1))
    bench.machine.failing = None
    refused = (cudaError_t.cudaErrorInvalidValue,)
    with monkeypatch.context() as patch:
        patch.setattr(Cuda, "cudaEventRecord", lambda *_: refused)
        with pytest.raises(SessionError, match="queueing an event"):
            session.run(feed_of("unet", seed=2))
    assert len(found) == 1
    assert bench.machine.timers == 0
    session.run(feed_of("unet", seed=3))
    assert len(found) == 2


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(InvalidInput, match="on_device_time: 3 cannot be called"):
        SessionOptions(on_device_time=3)  # type: ignore[arg-type]
