"""What a device can do at most: operations and bytes a second, measured here or from a data sheet.

A processor's are measured: matrix products by numpy's BLAS and by ONNX Runtime, of which the faster
is the limit, and copies of memory far larger than any cache by all threads together. They run in a
process of their own. A GPU's are its maker's.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..engine.errors import LightfillError, SessionError
from ..engine.gpus import local_gpu
from .datasheets import sheet_of
from .hardware import cores

EDGE = 2048
_LEAST_REPEATS, _ENOUGH_S = 3, 0.5
_COPIED_BYTES = 256 << 20
_PINNED_KERNEL = "OPENBLAS_CORETYPE"
"""Chooses one of OpenBLAS's kernels whatever the processor: the limit is the processor's own."""


class DeviceLimit(BaseModel):
    """flops, bytes: a second, at most. sources: where they are from, in words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    flops: float
    bytes: float
    sources: list[str]

    def higher(self, other: "DeviceLimit") -> "DeviceLimit":
        """Of two measurements of one device: what it could do at least once, it can do."""
        best = self if self.flops >= other.flops else other
        return best.model_copy(update={"bytes": max(self.bytes, other.bytes)})


def host_limit(threads: int | None = None, edge: int = EDGE) -> DeviceLimit:
    """This machine's processor, with `threads` (None: all it may use), in float32."""
    environment = {name: value for name, value in os.environ.items() if name != _PINNED_KERNEL}
    if threads is not None:
        environment |= {f"{each}_NUM_THREADS": str(threads) for each in ("OPENBLAS", "OMP", "MKL")}
    command = [sys.executable, "-m", "lightfill.bench.limits", str(threads or 0), str(edge)]
    ran = subprocess.run(  # noqa: S603
        command, env=environment, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SessionError(
            f"the processor's limits cannot be measured: {ran.stderr.strip()[-500:]}; run "
            "`python -m lightfill.bench.limits 0 2048` alone"
        )
    found = json.loads(ran.stdout)
    products = {
        name: found[name]
        for name in ("numpy sgemm", "ONNX Runtime MatMul")
        if found[name] is not None
    }
    sources = [f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in products.items()]
    sources += [] if found["missing"] is None else [found["missing"]]
    return DeviceLimit(
        device="processor", flops=max(products.values()), bytes=found["copy"], sources=sources
    )


def gpu_limit(index: int = 0) -> DeviceLimit:
    """This machine's GPU in float16, as its data sheet says; SessionError if it is not known."""
    gpu = local_gpu(index)
    if gpu is None:
        raise SessionError("this machine has no NVIDIA GPU to give a limit; use --device cpu")
    sheet = sheet_of(gpu.name)
    if sheet is None:
        raise SessionError(f"the data sheet of {gpu.name} is not known; add it to bench/datasheets")
    return DeviceLimit(
        device=gpu.name,
        flops=sheet.flops,
        bytes=sheet.bytes,
        sources=[f"data sheet of {sheet.name}"],
    )


def main() -> None:
    """In a process of its own: threads (0: all) and edge in, one line of JSON out."""
    threads, edge = int(sys.argv[1]), int(sys.argv[2])
    matmul, missing = None, None
    try:
        matmul = _onnxruntime_flops(edge, threads)
    except (ImportError, LightfillError) as error:
        missing = f"ONNX Runtime's MatMul was not measured: {error}"
    found = {
        "numpy sgemm": _numpy_flops(edge),
        "ONNX Runtime MatMul": matmul,
        "copy": _copied_bytes(threads or cores()),
        "missing": missing,
    }
    print(json.dumps(found))


def _best(action: Callable[[], object]) -> float:
    """Seconds of the fastest of several: a limit is what the machine can do undisturbed."""
    action()
    seconds: list[float] = []
    while len(seconds) < _LEAST_REPEATS or sum(seconds) < _ENOUGH_S:
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _numpy_flops(edge: int) -> float:
    import numpy as np

    left, right = (np.ones((edge, edge), np.float32) for _ in range(2))
    out = np.empty_like(left)
    return 2 * edge**3 / _best(lambda: np.matmul(left, right, out=out))


def _onnxruntime_flops(edge: int, threads: int) -> float:
    import numpy as np
    import onnxruntime

    from ..export.matmul_graph import matmul_graph

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session: Any = onnxruntime.InferenceSession(
        matmul_graph(edge), settings, providers=["CPUExecutionProvider"]
    )
    feed = {"left": np.ones((edge, edge), np.float32)}
    return 2 * edge**3 / _best(lambda: session.run(None, feed))


def _copied_bytes(threads: int) -> float:
    """Bytes read and written a second; each thread has a part of the memory to itself."""
    import numpy as np

    parts = [np.ones(_COPIED_BYTES // threads // 8) for _ in range(threads)]
    targets = [np.empty_like(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(np.copyto, targets, parts)))
    return 2 * sum(part.nbytes for part in parts) / seconds


if __name__ == "__main__":
    main()
