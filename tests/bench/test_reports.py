"""Artefacts as files, tables, plots and comparisons; what is no artefact is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lightfill.bench import artefact, compare, plots, report
from lightfill.bench.artefact import Latency, PeerResult, Point, Sweep
from lightfill.bench.spread import Spread
from lightfill.engine.errors import InvalidInput, LightfillError

PEER = PeerResult(
    name="a peer",
    seconds=Spread.of([3.0, 3.2]),
    ours=Spread.of([1.0, 1.1]),
    ratios=Spread.of([3.0, 2.9]),
    together=True,
    peak_bytes=10**9,
    psnr_db=41.4,
    note="computes in bfloat16",
)
ABSENT = PeerResult(name="another", reason="no such\n  library")


def sweep(measured: Latency, varies: str = "batch") -> Sweep:
    """Two points measured, one not."""
    names = ("created", "workload", "engine", "machine")
    shared = {name: getattr(measured, name) for name in names}
    points = [
        Point(label="1", value=1, seconds=Spread.of([1.0, 1.2]), per_picture=1.1),
        Point(label="2", value=2, seconds=Spread.of([1.5]), per_picture=0.75, requests_per_s=0.67),
        Point(label="3", value=3, reason="no memory"),
    ]
    return Sweep(varies=varies, points=points, **shared)


def test_the_table_tells_every_stage_and_its_share(measured: Latency) -> None:
    text = report.latency(measured)
    for name in report.NAMES.values():
        assert f"| {name}" in text
    assert "| UNet x 3 |" in text
    assert "| UNet, one call |" in text
    assert "| **total** |" in text
    shares = [line for line in text.splitlines() if line.startswith("|") and line.endswith("% |")]
    assert len(shares) == len(report.NAMES) - 1 + 2  # all but the checker; one call; the total
    assert "- Cold start, `lightfill inpaint` in a new process" in text
    assert "- Peak memory of the warm process: " in text
    assert "no limit, because no checker ran" in text


def test_a_busy_machine_is_told(measured: Latency) -> None:
    for load, told in ((0.1, False), (5.0, True), (None, False)):
        machine = {**measured.machine, "load_average": load, "cores": 2}
        text = report.latency(measured.model_copy(update={"machine": machine}))
        assert ("**The machine was busy**" in text) is told


def test_peers_have_ratios_or_a_reason(measured: Latency) -> None:
    text = report.latency(measured.model_copy(update={"peers": [PEER, ABSENT]}))
    assert "| a peer | 3100 | 1050 | 2.95 (2.90 to 3.00) | 1.00 GB | 41 dB |" in text
    assert "| another | did not run: no such library |" in text
    assert "- a peer: computes in bfloat16." in text


def test_growth_as_a_table(measured: Latency) -> None:
    lines = report.sweep(sweep(measured)).splitlines()
    assert lines[-3:] == [
        "| 1 | 1100 | 1200 | 1100 |  |",
        "| 2 | 1500 | 1500 | 750 | 0.67 |",
        "| 3 | not measured: no memory | | | |",
    ]


def test_plots_are_svg_and_equal_for_equal_figures(measured: Latency, tmp_path: Path) -> None:
    found = measured.model_copy(update={"peers": [PEER, ABSENT]})
    paths = plots.latency(found, tmp_path, "demo")
    paths += plots.sweep(sweep(found), tmp_path, "demo-by-batch")
    names = ["demo-stages.svg", "demo-peers.svg", "demo-by-batch.svg"]
    assert [path.name for path in paths] == names
    drawn = [path.read_bytes() for path in paths]
    for content, word in zip(drawn, ("VAE decode", "a peer", "a picture"), strict=True):
        assert ElementTree.fromstring(content).tag.endswith("svg")
        assert word in content.decode()
    assert b"another" not in drawn[1]  # what did not run has no bar
    plots.latency(found, tmp_path, "demo")
    assert paths[0].read_bytes() == drawn[0]


def test_plots_without_matplotlib_say_what_to_install(
    measured: Latency, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(LightfillError, match=r"plots need matplotlib .*lightfill\[bench\]"):
        plots.latency(measured, tmp_path, "demo")


def test_an_artefact_survives_its_file(measured: Latency, tmp_path: Path) -> None:
    path = tmp_path / "again.json"
    artefact.write(path, measured)
    assert artefact.read(path, Latency) == measured
    assert json.loads(path.read_text())["schema_version"] == 1


def test_comparing_tells_what_else_differs(
    artefact_at: Callable[..., Path], measured: Latency
) -> None:
    content = json.loads(measured.model_dump_json())
    engine, machine = content["engine"], content["machine"]
    first = artefact_at("first.json")
    second = artefact_at(
        "second.json",
        total={name: 2 * value for name, value in content["total"].items()},
        engine={**engine, "threads": 1},
        machine={
            **machine,
            "machine": "abacus",
            "versions": {**machine["versions"], "numpy": "0.1"},
        },
    )
    text = compare.compare(first, second)
    assert "- other threads: nothing, then 1\n" in text
    assert ", then abacus\n" in text
    numpy = machine["versions"]["numpy"]
    assert f"- other versions: numpy {numpy}, then numpy 0.1\n" in text
    assert "| stage | first, ms | second, ms | ratio |" in text
    (total,) = (line for line in text.splitlines() if line.startswith("| total"))
    assert total.endswith("| 2.00 |")
    assert "- other" not in compare.compare(first, first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, r"no latency benchmark of this version \(schema_version: "),
        ({"kind": "sweep"}, r"\(kind: Input should be 'latency'"),
        ({"total": 3}, r"\(total: "),
        ({"unknown": 3}, r"\(unknown: Extra inputs are not permitted\); measure it again"),
    ],
)
def test_what_is_no_artefact_is_refused(
    artefact_at: Callable[..., Path], change: dict[str, Any], message: str
) -> None:
    path = artefact_at("other.json", **change)
    with pytest.raises(InvalidInput, match=message):
        artefact.read(path, Latency)


def test_files_that_cannot_be_read_or_written(measured: Latency, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        artefact.read(tmp_path / "absent.json", Latency)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"json: .* cannot be written: "):
        artefact.write(tmp_path / "file" / "a.json", measured)
