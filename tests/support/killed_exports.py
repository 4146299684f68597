"""Exports to be killed: one process imports PyTorch once and forks a child for every export.

Every file a child is about to open for writing, rename or remove is counted, so that a kill can
come right before any of them, or a little later.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any, Self

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


@dataclass(frozen=True)
class Outcome:
    """Of one export.

    changes: how many it made or was about to make. made: by component, whether it was made or was
    there; None if the export was killed.
    """

    changes: int
    made: dict[str, bool] | None


class KilledExports:
    """The process that forks; use it as a context manager."""

    def __enter__(self) -> Self:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one_thread},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        kill_at: int | None = None,
        delay: float | None = None,
        kill_after: str | None = None,
        **request: Any,
    ) -> Outcome:
        """Export, killed right before change number `kill_at`, or `delay` seconds later.

        Or killed once component `kill_after` is finished. Raises RuntimeError if the export fails.
        """
        order = {"kill_at": kill_at, "delay": delay, "kill_after": kill_after, "request": request}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order, default=str) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return Outcome(**answer)


def _serve() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            with os.fdopen(writing, "w") as pipe:
                _export(pipe, order)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            answer = _watched(pipe, child, order["kill_at"], order["delay"])
        print(json.dumps(answer), flush=True)


def _watched(pipe: IO[str], child: int, kill_at: int | None, delay: float | None) -> dict[str, Any]:
    changes, said = 0, ""
    for line in pipe:
        if line != "change\n":
            said = line
            continue
        changes += 1
        if changes == kill_at and delay is not None:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return {"changes": changes, "made": None}
    return {"changes": changes, **json.loads(said or '{"error": "died without a word"}')}


def _export(pipe: IO[str], order: dict[str, Any]) -> None:
    """In the child, which ends here."""
    from pathlib import Path

    from lightfill.export.bundle_writer import export_bundle
    from lightfill.export.progress import ComponentReport, Progress
    from lightfill.export.request import ExportRequest

    changes, at = 0, order["kill_at"] if order["delay"] is None else None

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if writes or event in _CHANGES:
            changes += 1
            os.write(pipe.fileno(), b"change\n")
            if changes == at:
                os.kill(os.getpid(), signal.SIGKILL)

    class Deadly(Progress):
        def end(self, report: ComponentReport) -> None:
            if report.name == order["kill_after"]:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        request = order["request"]
        asked = ExportRequest(**{**request, "out": Path(request["out"])})
        sys.addaudithook(watch)
        report = export_bundle(asked, Deadly())
        said: dict[str, Any] = {"made": {part.name: part.made for part in report.components}}
    except BaseException as error:  # noqa: BLE001, told to the parent
        said = {"error": repr(error)}
    os.write(pipe.fileno(), (json.dumps(said) + "\n").encode())
    os._exit(0)


def _remember_architectures() -> None:
    """Built once, here: the children trace nothing, so they do not use them up."""
    from lightfill.export import part, plan, unets

    built: dict[str, Any] = {}
    build = part.build

    def remembered(role: str, config: Any, origin: str) -> Any:
        key = json.dumps([role, dict(config)], sort_keys=True)
        if key not in built:
            built[key] = build(role, config, origin)
        return built[key]

    for module in (part, plan, unets):
        module.build = remembered  # type: ignore[attr-defined]


def _warm_up() -> None:
    """What one export has imported and remembered, its successors need not."""
    from pathlib import Path

    from lightfill.export.bundle_writer import export_bundle
    from lightfill.export.request import ExportRequest

    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "bundle"
        options: Any = {"steps": (4,), "arithmetics": ("float32",), "verify": False}
        export_bundle(ExportRequest(out=out, synthetic="tiny", **options))


if __name__ == "__main__":
    _remember_architectures()
    _warm_up()
    _serve()
