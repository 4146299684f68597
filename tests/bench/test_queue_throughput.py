"""The queue's benchmark runs and prints what it measured; no limit is asserted on time here."""

from pathlib import Path

import pytest

from lightfill.bench import queue_throughput


def test_it_measures_every_figure(tmp_path: Path) -> None:
    found = queue_throughput.measure(f"sqlite:///{tmp_path / 'q.sqlite3'}", jobs=60, looks=20)
    assert found.jobs == 60
    assert min(found.submits, found.submits_alone, found.jobs_done, found.fsync_ms) > 0
    assert found.status_ms[0] <= found.status_ms[1]
    assert found.busy_ms[0] <= found.busy_ms[1]


def test_it_prints_figures_and_limits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["queue_throughput", "--runs", "1", "--jobs", "40"])
    queue_throughput.main()
    printed = capsys.readouterr().out
    for word in ("submits, 16 threads", "at least 1000", "p99", "at most 5", "fsync"):
        assert word in printed
