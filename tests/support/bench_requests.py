"""What the benchmarks' tests measure: the example photo, at a small size."""

from pathlib import Path
from typing import Any

from lightfill.bench.workload import Workload

EXAMPLES = Path(__file__).parents[2] / "examples"


def workload(**changes: Any) -> Workload:
    """At this size the model's own work is most of a request."""
    files = {"image": EXAMPLES / "coffee.png", "mask": EXAMPLES / "coffee-mask.png"}
    return Workload(**{**files, "size": (192, 192), "steps": 4, "strength": 0.95, **changes})
