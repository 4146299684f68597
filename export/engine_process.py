"""The parent's side of a build: starts the process that builds, listens to it, ends it."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from ..engine.errors import BuildFailed, Cancelled
from .engine_order import Answer, Order, Outcome

_COMMAND = [sys.executable, "-P", "-m", "lightfill.export.engine_build"]
_KILLED = 9
_SHOWN_CHARACTERS = 300

OnPhase = Callable[[str, float], None]


class Builders:
    """Running build processes, so that all of them can be ended at once. Thread-safe."""

    def __init__(self, device_index: int = 0) -> None:
        self._device_index = device_index
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()

    def run(self, order: Order, on_phase: OnPhase) -> Outcome:
        """Build in a new process, which ends before this returns.

        Raises BuildFailed with the process's own reason, Cancelled after `stop`.
        """
        process = self._start()
        try:
            last, said = _listened(process, order, on_phase)
        finally:
            self._end(process)
        if self.stopped.is_set():
            raise Cancelled("the build was stopped; run the command again to go on")
        if last.built is not None:
            return last.built
        if last.failed is not None:
            raise BuildFailed(last.failed)
        raise BuildFailed(_death(process.returncode, said))

    def stop(self) -> None:
        """End every process; what runs, and what is run from now on, raises Cancelled."""
        self.stopped.set()
        with self._lock:
            for process in self._running:
                process.kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self.stopped.is_set():
                raise Cancelled("the build was stopped; run the command again to go on")
            process = subprocess.Popen(  # noqa: S603
                _COMMAND,
                stdin=subprocess.PIPE,  # kept open: its end is the child's
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for this process, which ends the child
                env=environment_with(self._device_index),
            )
            self._running.add(process)
            return process

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()  # no-op for one that has ended
        process.wait()
        with self._lock:
            self._running.discard(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def environment_with(device_index: int) -> dict[str, str]:
    """This process's environment, in which that GPU of those it sees is the first.

    TensorRT builds on the first, and CUDA is told which one that is by this variable alone.
    """
    environment = dict(os.environ)
    if device_index:
        visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        number = visible[device_index] if device_index < len(visible) else str(device_index)
        environment["CUDA_VISIBLE_DEVICES"] = number.strip()
    return environment


def _listened(
    process: "subprocess.Popen[bytes]", order: Order, on_phase: OnPhase
) -> tuple[Answer, str]:
    """The last answer, and the end of what was written to standard error."""
    assert process.stdin  # noqa: S101, for the type checker: it is a pipe
    assert process.stdout  # noqa: S101
    said = bytearray()
    listener = threading.Thread(target=_drain, args=(process, said), daemon=True)
    listener.start()
    with contextlib.suppress(BrokenPipeError):  # it died first; how is found out below
        process.stdin.write(order.model_dump_json().encode() + b"\n")
        process.stdin.flush()
    last = Answer()
    for line in process.stdout:
        last = Answer.model_validate_json(line)
        if last.phase is not None:
            on_phase(last.phase, last.done)
    listener.join()
    process.wait()
    return last, said.decode(errors="replace").strip()


def _drain(process: "subprocess.Popen[bytes]", said: bytearray) -> None:
    """Keep the end of standard error: a full pipe would stop the child."""
    assert process.stderr  # noqa: S101
    for line in process.stderr:
        said += line
        del said[:-4096]


def _death(status: int, said: str) -> str:
    """Why a process that gave no answer ended."""
    if status == -_KILLED:
        return (
            "its process was killed, most likely because memory ran out (a UNet takes about three "
            "and a half times its weights); free memory, or use --jobs 1 or a larger machine"
        )
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    words = (said.splitlines() or ["it said nothing"])[-1][:_SHOWN_CHARACTERS]
    return f"its process died ({how}: {words}); report this with your TensorRT version"
