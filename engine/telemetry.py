"""OpenVINO and NNCF report to their makers when they are imported: here they do not.

Both import the package `openvino_telemetry`, write a client's identity into the user's home and
send an event, unless that package is absent, for which both are prepared (openvino/tools/ovc,
nncf/telemetry).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGE = "openvino_telemetry"


@contextmanager
def no_telemetry() -> Iterator[None]:
    """What is imported meanwhile finds the package absent; what was imported before keeps it."""
    was_there = _PACKAGE in sys.modules
    if not was_there:
        sys.modules[_PACKAGE] = None  # type: ignore[assignment]  # Python's own way to say: absent
    try:
        yield
    finally:
        if not was_there:
            del sys.modules[_PACKAGE]
