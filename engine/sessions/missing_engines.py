"""Engines that are not there, built on request: `lightfill build` in a process of its own.

The builder takes gigabytes of memory, which end with its process, and needs packages that running
does not.
"""

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping

from ..engine_record import Runtime
from ..engine_store import EngineStore
from ..errors import BuildFailed

_SHOWN = 2000  # characters of the builder's last words

logger = logging.getLogger(__name__)


def build_missing(
    store: EngineStore, component: str, sizes: Mapping[str, int], runtime: Runtime
) -> None:
    """Run the command that an EngineNotBuilt error names; raises BuildFailed with its words."""
    command = store.build_command(component, sizes, runtime)
    logger.warning("building engines, which takes minutes: %s", command)
    # -P: a directory of that name where the program was started is not this package.
    words = [sys.executable, "-P", "-m", "lightfill", *shlex.split(command)[1:]]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip()
        error = re.search(r"^error: .*", said, re.DOTALL | re.MULTILINE)
        said = (error[0] if error else said)[-_SHOWN:]
        raise BuildFailed(
            f"engines that were missing could not be built ({said or ran.returncode}); run "
            f"`{command}` to see all of it"
        )
