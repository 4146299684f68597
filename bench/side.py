"""One side of a comparison: a process that runs the same workload again and again when told to.

Ours (`bench.own_side`) and every peer speak the same lines of JSON. The first line in describes the
work; the process answers once it has loaded and run its warm-ups. Then each command gets one
answer: "run", "save" (a picture), "end". An `error` answer, or an exit, ends the side.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ..engine.errors import SessionError

_SHOWN = 800
"""Characters of a side's last words that an error quotes."""


class Side:
    """A started process; use as a context manager.

    name: how errors call it. ready: what it said when it had loaded. Raises SessionError if it
    fails or ends, with its own reason.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        work: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            env=None if environment is None else dict(environment),
        )
        try:
            self.ready = self._ask(work)
        except BaseException:
            self.close()
            raise

    def run(self) -> dict[str, Any]:
        """One request: {"total": seconds, ...}."""
        return self._ask({"do": "run"})

    def save(self, path: Path) -> dict[str, Any]:
        """Write the last request's first picture as a PNG."""
        return self._ask({"do": "save", "path": str(path)})

    def end(self) -> dict[str, Any]:
        """Its last words: {"peak_bytes": ...}. The process ends."""
        answer = self._ask({"do": "end"})
        self.close()
        return answer

    def close(self) -> None:
        """End the process, at once if it does not go by itself. Closing twice is fine."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # it was gone
                    stream.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._words.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None  # noqa: S101 - for the type checker: both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise SessionError(
                f"{self.name} ended without an answer: {self._last_words()}"
            ) from None
        if "error" in answer:
            raise SessionError(f"{self.name}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        status = self._process.poll()
        self._words.seek(0)
        words = self._words.read().strip()
        return f"{words[-_SHOWN:] or 'it said nothing'} (exit status {status}); run it alone"
