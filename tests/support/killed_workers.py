"""Processes that work for a queue or submit to it, to be killed with SIGKILL at any moment.

One process imports the queue once and forks the others: a fork takes milliseconds, an import a
second. It is their parent, so no process id is used again before it was told of the death.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self

LEASE_S, HEARTBEAT_S = 3.0, 0.5


class KilledProcesses:
    """The process that forks; use it as a context manager. Kills what it forked at the end."""

    def __enter__(self) -> Self:
        self.alive: list[int] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        for pid in list(self.alive):
            self.kill(pid)
        self._process.communicate()

    def fork(self, role: str, url: str, name: str) -> int:
        """Start a process; `role` is "worker" or "submitter". Returns its id."""
        pid = self._ask(["fork", role, url, name])
        self.alive.append(pid)
        return pid

    def kill(self, pid: int) -> None:
        """SIGKILL; raises AssertionError if the process had ended by itself."""
        self.alive.remove(pid)
        assert self._ask(["kill", pid]) == signal.SIGKILL, "it died of something else"

    def _ask(self, order: list[Any]) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _serve() -> None:
    from lightfill.engine.fal import worker  # noqa: F401, so that every child has it

    roles: dict[str, Callable[[str, str], NoReturn]] = {"worker": _work, "submitter": _submit}
    for line in sys.stdin:
        action, *rest = json.loads(line)
        if action == "fork":
            role, url, name = rest
            answer = os.fork()
            if answer == 0:
                sys.stdin.close()
                roles[role](url, name)
        else:
            os.kill(rest[0], signal.SIGKILL)
            answer = os.waitstatus_to_exitcode(os.waitpid(rest[0], 0)[1]) * -1
        print(answer, flush=True)


def _work(url: str, name: str) -> NoReturn:
    """Run jobs until killed; each takes as long as its arguments say, in four logged steps."""
    from lightfill.engine.fal.queue import JobQueue
    from lightfill.engine.fal.worker import Worker

    def run(claim: Any, log: Callable[[str], None], cancelled: Any) -> Any:
        for step in range(4):
            time.sleep(claim.arguments["seconds"] / 4)
            log(f"step {step + 1}/4")
        return 200, {"n": claim.arguments["n"], "by": claim.worker}, {}

    queue = JobQueue.open(url, max_length=None, retention_s=3600, lease_s=LEASE_S)
    Worker(queue, run, name, heartbeat_s=HEARTBEAT_S, poll_s=0.02).start()
    while True:
        time.sleep(60)


def _submit(url: str, name: str) -> NoReturn:
    """Submit until killed; every id the queue answered is in the file `name` at once."""
    from lightfill.engine.fal.queue import JobQueue

    queue = JobQueue.open(url, max_length=None, retention_s=3600, lease_s=LEASE_S)
    told = os.open(Path(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        number = random.randrange(10**9)
        request_id = queue.submit("app", {"n": number}, priority=random.choice(["normal", "low"]))
        os.write(told, f"{request_id} {number}\n".encode())


if __name__ == "__main__":
    _serve()
