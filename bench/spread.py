"""Several measurements of one thing, summed up: median, 90th and 99th percentile."""

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Spread(BaseModel):
    """In the unit of what was measured. Percentiles are nearest ranks: values that occurred.

    With fewer than 100 measurements p99 is the largest, with fewer than 10 so is p90.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int
    median: float
    p90: float
    p99: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        ordered = sorted(values)
        return cls(
            count=len(ordered),
            median=statistics.median(ordered),
            p90=_nearest_rank(ordered, 0.9),
            p99=_nearest_rank(ordered, 0.99),
            least=ordered[0],
            most=ordered[-1],
        )


def _nearest_rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
