"""The host-overhead benchmark runs and its stages add up; no limit is asserted on time here."""

import pytest

from lightfill.bench import host_overhead


def test_stages_add_up_to_the_request() -> None:
    found = host_overhead.measure(runs=3, warmups=1)
    assert found.total > 0
    assert found.per_step > 0
    assert sum(found.stages.values()) == pytest.approx(found.total, rel=0.25)


def test_it_prints_both_figures_and_what_dominates(capsys: pytest.CaptureFixture[str]) -> None:
    host_overhead.main()
    printed = capsys.readouterr().out
    for word in ("request", "per step", "vae_decode", "own time"):
        assert word in printed
