"""Percentiles are values that occurred, and in order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightfill.bench.spread import Spread

SECONDS = st.floats(1e-6, 1e4)


@given(st.lists(SECONDS, min_size=1, max_size=200))
def test_it_is_numpys_by_nearest_rank(values: list[float]) -> None:
    found = Spread.of(values)
    assert found.count == len(values)
    assert found.median == pytest.approx(np.median(values))
    for share, name in ((0.9, "p90"), (0.99, "p99")):
        assert getattr(found, name) == np.quantile(values, share, method="inverted_cdf")
    assert found.least <= found.median <= found.p90 <= found.p99 <= found.most


def test_of_ten_runs_the_slowest_is_the_99th_percentile() -> None:
    found = Spread.of([float(each) for each in range(1, 11)])
    assert (found.median, found.p90, found.p99) == (5.5, 9.0, 10.0)
