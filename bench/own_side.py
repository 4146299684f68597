"""`python -m lightfill.bench.own_side`: lightfill as one side of a comparison (`bench.side`).

A process of its own, so that its peak memory is that of the requests and of nothing else.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from .side import Side
from .workload import Workload

_BY_DIFFUSERS_RULES: Mapping[str, Any] = {
    "blend": "diffusers", "composite": False, "fit": "stretch",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How our side runs: `Inpainter.open`'s options.

    remembers: whether prompts and photos of earlier requests are remembered; every request then has
        a prompt of its own, so that what is measured is the second prompt on the same photo.
    parity: paint as diffusers does, for a picture that can be compared with a peer's.
    """

    bundle: Path | None = None
    device: str = "cpu"
    threads: int | None = None
    low_memory: bool | None = None
    engines: Path | None = None
    build_missing: bool = False
    precision: str | None = None
    remembers: bool = False
    parity: bool = False

    def as_json(self) -> dict[str, Any]:
        """For the process."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }


def open_side(options: EngineOptions, workload: Workload, warmups: int) -> Side:
    """Start it; it is ready after its warm-ups."""
    work = {"engine": options.as_json(), "workload": workload.as_json(), "warmups": warmups}
    return Side("lightfill", [sys.executable, "-m", "lightfill.bench.own_side"], work)


def main() -> None:
    """Answer commands until told to end."""
    from ..engine.errors import LightfillError

    with answers() as out:
        try:
            _serve(json.loads(sys.stdin.readline()), out)
        except LightfillError as error:
            say(out, {"error": str(error)})
            sys.exit(1)


@contextmanager
def answers() -> Iterator[TextIO]:
    """What was stdout; what anything else prints goes to stderr from here on."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        yield out


def say(out: TextIO, answer: Mapping[str, Any]) -> None:
    """One answer, at once."""
    out.write(json.dumps(answer) + "\n")
    out.flush()


def _serve(work: Mapping[str, Any], out: TextIO) -> None:
    start = time.perf_counter()
    from ..engine.peak_memory import peak_bytes
    from .request_stages import timed_request

    imported = time.perf_counter()
    options = work["engine"]
    workload = Workload.from_json(work["workload"])
    device_times: list[Any] = []
    changes = _BY_DIFFUSERS_RULES if options["parity"] else {}
    with _opened(options, workload, device_times) as inpainter:
        opened = time.perf_counter()
        requests = 0

        def request() -> Any:
            nonlocal requests
            requests += 1
            device_times.clear()
            if not options["remembers"]:
                return timed_request(inpainter, workload, **changes)
            prompt = f"{workload.prompt}, {requests}"
            return timed_request(
                inpainter, Workload.from_json({**workload.as_json(), "prompt": prompt}), **changes
            )

        for _ in range(work["warmups"]):
            last = request()
        ready = {"import": imported - start, "open": opened - imported}
        say(out, {"seconds": ready, "low_memory": inpainter.low_memory})
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "run":
                last = request()
                say(out, _as_json(last, device_times))
            elif command["do"] == "save":
                last.result.save(command["path"])
                say(out, {"saved": command["path"]})
            else:
                say(out, {"peak_bytes": peak_bytes(), "device_bytes": _device_bytes()})
                return


def _opened(options: Mapping[str, Any], workload: Workload, device_times: list[Any]) -> Any:
    """An Inpainter that remembers nothing, unless that is what is measured."""
    from ..engine import memory
    from ..engine.bundle import Bundle
    from ..engine.pipeline import CACHE_BYTES, Inpainter
    from ..engine.sessions import ENGINE_DEVICES, SessionOptions

    device = options["device"]
    bundle = Bundle.open(options["bundle"])
    low_memory = memory.chooses_low_memory(
        bundle, device, options["low_memory"], options["precision"]
    )
    on_gpu = device in ENGINE_DEVICES
    session_options = SessionOptions(
        threads=options["threads"],
        weights_mapped=low_memory,
        engines=options["engines"],
        build_missing=options["build_missing"],
        precision=options["precision"],
        on_device_time=device_times.append if on_gpu else None,
    )
    return Inpainter(
        bundle,
        device,
        session_options,
        low_memory=low_memory,
        cache_bytes=CACHE_BYTES if options["remembers"] else 0,
        batch_size=workload.batch,
    )


def _as_json(request: Any, device_times: list[Any]) -> dict[str, Any]:
    return {
        "total": request.total,
        "stages": dict(request.stages),
        "unet_calls": list(request.unet_calls),
        "effective_steps": request.result.effective_steps,
        "device": [asdict(each) for each in device_times],
    }


def _device_bytes() -> int | None:
    """GPU memory of this process, where NVIDIA's management library is installed and tells."""
    from .nvml import memory_of_process

    return memory_of_process(os.getpid())


if __name__ == "__main__":
    main()
