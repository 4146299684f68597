"""`lightfill serve` in a process of its own, to be stopped and killed."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

_PATIENCE_S = 60.0
_LAUNCH = "from lightfill.engine.cli import main; main()"


class ServerProcess:
    """A server on any free port with its data in `folder`; a context manager that kills it.

    more: command-line options. environment: LIGHTFILL_* variables.
    """

    def __init__(self, folder: Path, *more: str, code: str = "", **environment: str) -> None:
        self._command = [sys.executable, "-c", f"{code}\n{_LAUNCH}", "serve", "--port", "0",
                         "--data-dir", str(folder), *more]  # fmt: skip
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **environment}
        self.origin = ""
        self.said: list[str] = []

    def __enter__(self) -> Self:
        """Start it, and return once it says where it is."""
        self.process = subprocess.Popen(
            self._command, env=self._environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._until(lambda: self.origin)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals) -> int:
        """Send it the signal and return its status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(_PATIENCE_S)
        self._reader.join()
        return status

    def until_ready(self) -> None:
        def ready() -> bool:
            try:
                return httpx2.get(f"{self.origin}/ready").status_code == 200
            except httpx2.TransportError:
                return False

        self._until(ready)

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.origin, timeout=_PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.said.append(line)
                if found := re.search(r"lightfill serves (http://\S+:\d+)", line):
                    self.origin = found[1].replace(os.uname().nodename, "127.0.0.1")

    def _until(self, done: object) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while not done():  # type: ignore[operator]
            assert self.process.poll() is None, "".join(self.said)
            assert time.monotonic() < give_up, "".join(self.said)
            time.sleep(0.02)
