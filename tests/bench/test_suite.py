"""The suites of `make bench`: what they measure, in which order, how a stopped one goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightfill.bench import hardware, suite
from lightfill.bench.suite_progress import SuiteProgress


class Commands:
    """Stands where the commands are run; one of them may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run: list[str] = []
        self.against_peers: list[str] = []
        self.failing: str | None = None
        monkeypatch.setattr(suite, "_run", self)

    def __call__(self, *command: str) -> None:
        name = Path(command[command.index("--json") + 1]).stem if "--json" in command else ""
        if name and name == self.failing:
            raise SystemExit(7)
        self.run.append(name or command[3])
        if "--peers" in command:
            self.against_peers.append(name)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    # Whether parts fit into memory is the machine's: here, none of OpenVINO's do.
    monkeypatch.setattr(suite, "_why_not", lambda *_: "it needs 999 GB of memory")
    return Commands(monkeypatch)


SDXL = ["sdxl-1024", "sdxl-by-image_size", "sdxl-by-steps", "sdxl-512"]


def directory(tmp_path: Path) -> Path:
    (tmp_path / "made" / "sdxl").mkdir(parents=True)
    (tmp_path / "made" / "sdxl-checkpoint").mkdir()
    (tmp_path / "made" / "sdxl-checkpoint" / "model_index.json").write_text("{}")
    return tmp_path / "made"


def test_what_is_missing_is_made_first(commands: Commands, tmp_path: Path) -> None:
    suite.sdxl(tmp_path, 1, tmp_path / "none")
    checkpoint = str(tmp_path / "none" / "sdxl-checkpoint")
    assert commands.run == [checkpoint, "export", *SDXL]


@pytest.mark.parametrize(
    ("missing", "fastest"),
    [
        ([], "sdxl-512-int8-bf16"),
        (["int8+bf16"], "sdxl-512-bf16"),
        (["int8+bf16", "bf16"], "sdxl-512-openvino"),
        (["int8+bf16", "bf16", None], "sdxl-512"),
    ],
)
def test_peers_are_set_against_the_fastest_that_runs_here(
    commands: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: list[str | None],
    fastest: str,
) -> None:
    monkeypatch.setattr(
        suite, "_why_not", lambda _, precision: "no" if precision in missing else None
    )
    suite.sdxl(tmp_path, 1, directory(tmp_path))
    assert commands.against_peers == commands.run[-1:] == [fastest]
    assert len(commands.run) == len(set(commands.run)) == 2 + 2 * (4 - len(missing))


def test_a_stopped_run_goes_on_with_the_measurement_it_was_at(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = directory(tmp_path)
    commands.failing = "sdxl-by-image_size"
    with pytest.raises(SystemExit, match="7"):
        suite.sdxl(tmp_path, 1, made)
    assert commands.run == SDXL[:1]
    commands.failing = None
    suite.sdxl(tmp_path, 1, made)
    assert commands.run == SDXL
    assert "== sdxl-1024 was measured before this run was stopped" in capsys.readouterr().out
    suite.sdxl(tmp_path, 1, made)
    assert commands.run == SDXL + SDXL
    assert "before this run" not in capsys.readouterr().out


def test_another_machine_measures_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "measured.json"
    SuiteProgress(path).add("sdxl-512")
    assert "sdxl-512" in SuiteProgress(path)
    here: dict[str, Any] = hardware.describe()
    others: dict[str, Any] = {
        "machine": "another", "instruction_sets": ["NONE"], "memory_bytes": 1,
        "versions": {"numpy": "0"},
    }  # fmt: skip
    for name, other in others.items():
        with monkeypatch.context() as patch:
            patch.setattr(hardware, "describe", lambda new={name: other}: here | new)
            assert "sdxl-512" not in SuiteProgress(path)
    with monkeypatch.context() as patch:
        patch.setattr(hardware, "describe", lambda: here | {"load_average": 99.0})
        assert "sdxl-512" in SuiteProgress(path)
    assert json.loads(path.read_bytes())["measured"] == ["sdxl-512"]


def test_the_demo_s_suites_measure_what_they_say(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite.host_overhead, "main", lambda: commands.run.append("host limits"))
    suite.demo(tmp_path, 1)
    sweeps = [f"demo-by-{varies}" for varies in ("image_size", "batch", "steps", "concurrency")]
    assert commands.run == ["demo", *sweeps, "host-overhead", "host limits"]
    commands.run.clear()
    suite.demo_peers(tmp_path, 1)
    assert commands.run == ["demo"]  # without bfloat16
    monkeypatch.setattr(suite, "_why_not", lambda *_: None)
    commands.run.clear()
    suite.demo_peers(tmp_path, 1)
    assert commands.run == ["demo", "demo-bf16"]
