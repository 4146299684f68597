"""Virtual environments of peers: made once, kept in the user's cache, never this one.

An environment is known by what is installed into it and by this Python's version. It is complete
when its stamp is there; one without comes from a process that was stopped, and is made anew.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from ..engine.atomic_write import write_atomically
from ..engine.errors import SessionError

CACHE = user_cache_path("lightfill", appauthor=False) / "bench-peers"
_CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
_STAMP = "complete.json"
_QUOTED = 300
"""Characters of pip's last words that an error quotes."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """requirements: for pip. without: what they bring along and must be removed again."""

    name: str
    requirements: tuple[str, ...]
    without: tuple[str, ...] = ()

    def python(self, cache: Path = CACHE) -> Path:
        """Its interpreter, after installing everything if that was not done before.

        In a checkout, the PyTorch that `constraints.txt` names is installed. Raises SessionError
        with pip's reason; that takes network and up to some GB of disk.
        """
        place = cache / f"{self.name}-{self._digest()}"
        python = place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        if (place / _STAMP).exists():
            return python
        shutil.rmtree(place, ignore_errors=True)
        self._run([sys.executable, "-m", "venv", str(place)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        constraints = ["-c", str(_CONSTRAINTS)] if _CONSTRAINTS.exists() else []
        self._run([*pip, "install", *constraints, *self.requirements])
        if self.without:
            self._run([*pip, "uninstall", "--yes", *self.without])
        write_atomically(place / _STAMP, json.dumps(self.requirements).encode())
        return python

    def _digest(self) -> str:
        constraints = _CONSTRAINTS.read_text(encoding="utf-8") if _CONSTRAINTS.exists() else ""
        described = json.dumps([self.requirements, self.without, sys.version_info[:2], constraints])
        return hashlib.sha256(described.encode()).hexdigest()[:12]

    def _run(self, command: Sequence[str]) -> None:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if ran.returncode:
            words = (ran.stderr or ran.stdout).strip()[-_QUOTED:].replace("\n", " ")
            raise SessionError(
                f"its environment cannot be made ({words}); check the network and the disk"
            )


def kept_exports(checkpoint: Path) -> Path:
    """Where peers keep what they make of a checkpoint: another checkpoint has another place."""
    digest = hashlib.sha256(str(checkpoint.resolve()).encode())
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file():
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return CACHE / "exports" / digest.hexdigest()[:12]
