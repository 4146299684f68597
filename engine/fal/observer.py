"""Who is told what becomes of jobs."""

from collections.abc import Mapping
from typing import Any

from .job import Claim


class JobObserver:
    """Told by the process that changes a job, in the thread that does, once it is stored.

    Its methods return at once and raise nothing. This one ignores everything.
    """

    def started(self, claim: Claim) -> None:
        """A worker of this process has the job."""

    def completed(self, status_code: int, body: Mapping[str, Any]) -> None:
        """A job has its result: HTTP status and body as fal would send them."""
