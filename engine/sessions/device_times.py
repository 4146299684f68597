"""How long runs take on the GPU itself, by CUDA events: asked for by benchmarks, else not recorded.

Events are queued among the work, so that the GPU's own clock tells when each part was done; the
host's overhead and its waiting are not in these figures. Not yet run on a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .cuda_device import CudaDevice

Mark = Callable[[], None]


@dataclass(frozen=True)
class DeviceTime:
    """One run of a component on the GPU: milliseconds of copies in, execution, copies out."""

    component: str
    upload_ms: float
    execution_ms: float
    download_ms: float


OnDeviceTime = Callable[[DeviceTime], object]


@contextmanager
def timed(device: CudaDevice, component: str, on_time: OnDeviceTime | None) -> Iterator[Mark]:
    """Yields what marks a border between two parts; there are four borders of three parts.

    The block ends synchronised. Without `on_time` marks do nothing; a block that fails reports
    nothing. Events are freed in any case.
    """
    if on_time is None:
        yield lambda: None
        return
    events: list[Any] = []
    try:
        yield lambda: events.append(device.record())
        upload, execution, download = (device.milliseconds(*each) for each in pairwise(events))
    finally:
        for event in events:
            device.discard_event(event)
    on_time(DeviceTime(component, upload, execution, download))
