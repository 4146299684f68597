"""Floors: the slower of computing and moving, and what is left to gain by fusing."""

import pytest
from bench_requests import workload
from hypothesis import given
from hypothesis import strategies as st

from lightfill.bench.graph_costs import Cost
from lightfill.bench.limits import DeviceLimit
from lightfill.bench.roofline import device_floors, floor_of, host_floors

LIMIT = DeviceLimit(device="abacus", flops=100.0, bytes=10.0, sources=[])
NODES = st.lists(
    st.tuples(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 50)), min_size=1
)


def test_a_stage_is_bound_by_what_takes_longer() -> None:
    computing = floor_of(Cost(((1000, 1, 1),), weight_bytes=5, io_bytes=5), LIMIT)
    assert (computing.seconds, computing.bound) == (10.0, "operations")
    moving = floor_of(Cost(((10, 1, 1),), weight_bytes=50, io_bytes=30), LIMIT)
    assert (moving.seconds, moving.bound) == (8.0, "memory")


def test_without_fusion_every_node_has_a_floor_of_its_own() -> None:
    cost = Cost(((1000, 20, 2), (0, 30, 3)), weight_bytes=4, io_bytes=4)
    found = floor_of(cost, LIMIT)
    assert found.unfused == 2 * 10.0 + 3 * 3.0
    assert found.seconds == 20.0


@given(NODES, st.integers(0, 10**9))
def test_fusing_never_makes_a_floor_longer(nodes: list[tuple[int, int, int]], weights: int) -> None:
    """If what must be moved is among what nodes move, as it is in a graph."""
    moved = sum(count * each for _, each, count in nodes)
    found = floor_of(Cost(tuple(nodes), min(weights, moved), 0), LIMIT)
    assert found.unfused is not None
    assert found.unfused >= found.seconds * (1 - 1e-9)


def test_all_steps_of_the_unet_together() -> None:
    costs = {"unet": Cost(((1000, 1, 1),), 0, 0), "text": Cost(((100, 1, 1),), 0, 0)}
    found = device_floors(costs, LIMIT, effective_steps=3)
    assert found["unet"].seconds == found["unet"].unfused == 30.0
    assert found["unet"].flops == 3000
    assert found["text"].seconds == 1.0


def test_host_stages_move_at_least_their_pictures() -> None:
    one = host_floors(workload(size=(100, 50)), (600, 400), 3, LIMIT)
    two = host_floors(workload(size=(100, 50), batch=2), (600, 400), 3, LIMIT)
    assert one["composite"].seconds == 10 * 100 * 50 / 10.0
    for stage in ("composite", "encode", "overhead"):
        assert two[stage].seconds == pytest.approx(2 * one[stage].seconds)
    for stage in ("fetch", "prepare"):
        assert two[stage] == one[stage]
    assert one["prepare"].bytes > 2 * 3 * 600 * 400
