"""How cost grows: every value is measured, and one that cannot run has its reason."""

import pytest
from bench_requests import workload

from lightfill.bench import concurrency, sweep
from lightfill.bench.own_side import EngineOptions
from lightfill.engine.errors import InvalidInput
from lightfill.engine.request import IMAGE_SIZES

SMALL = workload(size=(64, 64))


def test_steps_and_what_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "STEPS", (1, 3))
    told: list[str] = []
    found = sweep.measure(EngineOptions(), SMALL, "steps", 2, 1, told.append)
    assert told == ["steps 1", "steps 3"]
    one, three = found.points
    assert one.seconds is not None
    assert one.seconds.count == 2
    assert one.stages.keys() >= {"unet", "vae_decode"}
    assert one.requests_per_s == pytest.approx(1 / one.seconds.median)
    assert three.seconds is None
    assert three.reason is not None
    assert "no UNet for 3 steps" in three.reason


def test_what_each_sweep_varies() -> None:
    sizes = list(sweep._values("image_size", SMALL))
    assert {each.size for _, _, each in sizes} == set(IMAGE_SIZES.values())
    assert [pixels for _, pixels, _ in sizes] == sorted(pixels for _, pixels, _ in sizes)
    assert [each.batch for _, _, each in sweep._values("batch", SMALL)] == list(range(1, 9))
    steps = list(sweep._values("steps", SMALL))
    assert [(each.steps, each.strength) for _, _, each in steps] == [
        (count, 1.0) for count in (1, 2, 4, 8)
    ]
    assert [clients for _, clients, _ in sweep._values("concurrency", SMALL)] == [1, 2, 4, 8, 16]
    with pytest.raises(InvalidInput, match="sweep: 'colour' is none; choose image_size, batch, "):
        sweep.measure(EngineOptions(), SMALL, "colour", 1, 1)


def test_many_callers_share_one_worker() -> None:
    found = concurrency.measured(EngineOptions(), SMALL, clients=3, each=2)
    assert len(found["seconds"]) == 6
    assert max(found["seconds"]) <= found["wall"]
    # They wait for one another: together they take less than they took one by one.
    assert sum(found["seconds"]) > 1.5 * found["wall"]
