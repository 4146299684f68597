"""Builds one engine in this process and no other: its memory ends with it, and so does a crash.

    python -P -m lightfill.export.engine_build <order >answers

The order is a line of JSON on standard input, which the parent keeps open: when it closes, the
parent is gone, and this process ends with it. Answers are lines of JSON on standard output.
Needs onnx, polygraphy and one of the TensorRTs; never PyTorch.
"""

import contextlib
import hashlib
import logging
import os
import platform
import re
import threading
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.errors import BuildFailed, LightfillError
from .engine_network import (
    Shapes,
    counted_layers,
    fix_sizes,
    require_contract,
    require_float16,
)
from .engine_order import Answer, Order, Outcome
from .engine_phases import Phases
from .lint import lint
from .peak_memory import peak_bytes

if TYPE_CHECKING:
    import tensorrt_rtx as trt

Tell = Callable[[Answer], None]

_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")
_CHUNK = 64 << 20
_SECONDS_BETWEEN_REPORTS = 0.05
_MOST_WARNINGS, _MOST_CHARACTERS = 20, 500


def main() -> None:
    """Read the order, build, answer. The exit status says nothing: the last answer does."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print is not an answer
    order = Order.model_validate_json(_first_line())
    threading.Thread(target=_end_with_parent, args=(order.plan,), daemon=True).start()
    lock = threading.Lock()

    def tell(answer: Answer) -> None:
        with lock:
            answers.write(answer.model_dump_json(exclude_defaults=True) + "\n")
            answers.flush()

    try:
        answer = Answer(built=build(order, tell))
    except LightfillError as error:
        answer = Answer(failed=str(error))
    except OSError as error:
        answer = Answer(
            failed=f"{error.filename or order.plan.parent} cannot be used ({error.strerror}); free "
            "some space, or choose another disk with --engines DIR"
        )
    except Exception as error:  # noqa: BLE001, a dozen unrelated types; the parent has one
        line = (str(error).strip().splitlines() or [""])[0]
        answer = Answer(
            failed=f"{type(error).__name__}: {line}; report this with your TensorRT version"
        )
    tell(answer)
    os._exit(0)  # at once: taking a builder's gigabytes apart politely takes seconds


def build(order: Order, tell: Tell) -> Outcome:
    """Lint the graph, parse it, prove its types, build, and write the plan."""
    key = order.key
    tell(Answer(phase="checking the graph"))
    lint(order.graph, order.role, "float16")
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if key.flavour == "rtx" else "0"
    log = _Log()
    trt = _tensorrt(order)
    tell(Answer(phase="parsing"))
    parts = _parsed(order.graph, log)
    require_contract(parts[1], order.role)
    shapes = fix_sizes(parts[1], order.role, key.sizes)
    layers = counted_layers(parts[1])
    require_float16(layers, order.role)
    plan = _built(trt, order, parts, shapes, tell, log)
    tell(Answer(phase="writing", done=1.0))
    content = memoryview(plan).cast("B")
    return Outcome(
        bytes=len(content),
        sha256=_write(content, order.plan),
        activation_bytes=log.activation_bytes,
        peak_bytes=peak_bytes(),
        layers=layers,
        log=log.warnings,
        made_with=_versions(),
    )


def _tensorrt(order: Order) -> Any:
    trt: Any = import_module("tensorrt_rtx" if order.key.flavour == "rtx" else "tensorrt")
    if trt.__version__ != order.key.version:
        raise BuildFailed(
            f"TensorRT {trt.__version__} was loaded, its package says {order.key.version}; "
            "install it afresh"
        )
    return trt


def _parsed(graph: Path, log: "_Log") -> Any:
    """(builder, network, parser); the parser reads weights from the file beside the graph."""
    from polygraphy.backend.trt import network_from_onnx_path
    from polygraphy.exception import PolygraphyException

    try:
        return network_from_onnx_path(str(graph), strongly_typed=True)
    except PolygraphyException as error:
        raise BuildFailed(
            f"TensorRT's parser refuses the graph ({log.reason(error)}); report this with your "
            "TensorRT version"
        ) from error


def _built(trt: Any, order: Order, parts: Any, shapes: Shapes, tell: Tell, log: "_Log") -> Any:
    """The plan in TensorRT's own memory; it is never copied."""
    from polygraphy.backend.trt import Profile, engine_bytes_from_network
    from polygraphy.exception import PolygraphyException

    profile = Profile()
    for name, shape in shapes.items():
        profile.add(name, min=shape, opt=shape, max=shape)
    try:
        config = _config(trt, order, profile, _monitor(trt, tell))
        return engine_bytes_from_network(parts, config)
    except PolygraphyException as error:
        raise BuildFailed(
            f"TensorRT cannot build it ({log.reason(error)}); try another --optimization-level or "
            "--workspace, or report this with your TensorRT version"
        ) from error


def _config(trt: Any, order: Order, profile: Any, monitor: Any) -> Any:
    """polygraphy's loader of the builder's configuration; what it sets is in the key."""
    from polygraphy.backend.trt import CreateConfig, PostprocessConfig

    key = order.key
    options: dict[str, Any] = {
        "profiles": [profile],
        "progress_monitor": monitor,
        "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,
    }
    if key.optimization_level is not None:
        options["builder_optimization_level"] = key.optimization_level
    if key.workspace_bytes is not None:
        options["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: key.workspace_bytes}
    if key.flavour == "rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        numbers = [int(target.removeprefix("sm")) for target in key.targets]
        capabilities = [divmod(number, 10) for number in numbers]
        create = CreateConfigRTX(compute_capabilities=capabilities, **options)
    else:
        create = CreateConfig(**options)

    def without_tf32(_builder: Any, _network: Any, config: "trt.IBuilderConfig") -> None:
        # What computes in float32 does so because float16 is too coarse; TF32 is no finer.
        config.clear_flag(trt.BuilderFlag.TF32)

    return PostprocessConfig(create, without_tf32)


def _monitor(trt: Any, tell: Tell) -> Any:
    last = 0.0

    def report(phase: str, done: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            tell(Answer(phase=phase, done=done))

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases = Phases(report)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.phases.start(phase, parent, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            self.phases.step(phase, step)
            return True  # a build is cancelled by ending this process

        def phase_finish(self, phase: str) -> None:
            self.phases.finish(phase)

    return Monitor()


class _Log(logging.Handler):
    """What TensorRT and polygraphy say: errors for a failure's reason, warnings for the record."""

    def __init__(self) -> None:
        super().__init__()
        from polygraphy.logger import G_LOGGER

        G_LOGGER.letter = G_LOGGER.colors = False
        G_LOGGER.module_severity = G_LOGGER.VERBOSE  # TensorRT's INFO
        G_LOGGER.use_python_logging_system = True
        logger = logging.getLogger("Polygraphy")
        logger.setLevel(1)
        logger.propagate = False
        logger.addHandler(self)
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.activation_bytes = 0

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().strip()[:_MOST_CHARACTERS]
        if found := _ACTIVATIONS.search(message):
            self.activation_bytes = max(self.activation_bytes, int(found[1]))
        if record.levelno >= logging.ERROR:
            self.errors.append(message)
        elif record.levelno >= logging.WARNING and message not in self.warnings:
            self.warnings = [*self.warnings, message][:_MOST_WARNINGS]

    def reason(self, error: Exception) -> str:
        """The first error that was logged: what follows are its consequences."""
        return (self.errors or [str(error)])[0].splitlines()[0]


def _write(plan: memoryview, path: Path) -> str:
    """Write a new file to the disk itself; returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for start in range(0, len(plan), _CHUNK):
            digest.update(plan[start : start + _CHUNK])
            file.write(plan[start : start + _CHUNK])
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("lightfill", "polygraphy", "onnx"):
        with contextlib.suppress(PackageNotFoundError):  # run from a checkout
            found[package] = version(package)
    return found


def _first_line() -> bytes:
    """Of standard input, unbuffered: `_end_with_parent` reads on where this stops."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _end_with_parent(plan: Path) -> None:
    """Wait until standard input closes, then leave, and leave nothing half written.

    TensorRT lets other threads run while it parses and builds, so this takes effect at once.
    """
    while os.read(0, 4096):
        pass
    plan.unlink(missing_ok=True)
    os._exit(1)


if __name__ == "__main__":
    main()
