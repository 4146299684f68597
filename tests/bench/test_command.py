"""`lightfill bench` as it is typed: files it writes, what it prints, and what it refuses."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from bench_requests import EXAMPLES

from lightfill.bench import command, suite
from lightfill.bench.artefact import Latency, PeerResult, Sweep, read
from lightfill.engine import cli
from lightfill.engine.bundle import DEMO_BUNDLE
from lightfill.engine.errors import DeviceUnavailable
from lightfill.engine.sessions import openvino


class Ran(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `lightfill bench ARGS` in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["lightfill", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capfd.readouterr()
        return Ran(int(stopped.value.code or 0), captured.out, captured.err)

    return run


def test_the_host_alone_and_every_file(
    bench: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "Plan", partial(command.Plan, edge=256))  # a quick limit
    path = tmp_path / "new" / "host.json"
    ran = bench(
        "--device", "null", "--image-size", "64x64", "--runs", 2, "--warmup", 1, "--cold-starts", 0,
        "--json", path, "--plot", tmp_path / "plots",
    )  # fmt: skip
    assert (ran.status, ran.err) == (0, "")
    found = read(path, Latency)
    assert (found.total.count, found.warmups, found.engine["device"]) == (2, 1, "null")
    assert ran.out == path.with_suffix(".md").read_text()
    assert "`lightfill-demo` on null" in ran.out
    assert path.with_suffix(".png").is_file()
    assert [each.name for each in (tmp_path / "plots").iterdir()] == ["host-stages.svg"]


def test_peers_that_were_measured_are_kept_when_a_later_one_is_cut_off(
    bench: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object) -> Iterator[PeerResult]:
        yield PeerResult(name="first", reason="no such library")
        raise DeviceUnavailable("the machine went away")

    monkeypatch.setattr(command, "Plan", partial(command.Plan, edge=256))
    monkeypatch.setattr(command, "measured_peers", measured)
    path = tmp_path / "cut.json"
    ran = bench(
        "--device", "null", "--image-size", "64x64", "--runs", 1, "--warmup", 1, "--cold-starts", 0,
        "--peers", "all", "--json", path,
    )  # fmt: skip
    assert ran.status != 0
    assert [peer.name for peer in read(path, Latency).peers] == ["first"]


def test_a_sweep_by_command(bench: Callable[..., Ran], tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    ran = bench(
        "--device", "null", "--image-size", "64x64", "--runs", 1, "--warmup", 1,
        "--sweep", "steps", "--json", path, "--plot", tmp_path,
        "--image", EXAMPLES / "coffee.png", "--mask", EXAMPLES / "coffee-mask.png",
    )  # fmt: skip
    assert ran.status == 0
    assert [point.value for point in read(path, Sweep).points] == [1, 2, 4, 8]
    assert "| 8 | " in ran.out
    assert (tmp_path / "steps.svg").is_file()


def test_comparing_measures_nothing(
    bench: Callable[..., Ran], artefact_at: Callable[..., Path]
) -> None:
    path = artefact_at("a.json")
    ran = bench("--compare", path, path)
    assert ran.status == 0
    assert "| VAE decode | " in ran.out


def test_predicting_measures_nothing(bench: Callable[..., Ran], tmp_path: Path) -> None:
    ran = bench("--predict", "h100", "--json", tmp_path / "h100.json")
    assert ran.status == 0
    assert ran.out.startswith("**PREDICTION, not a measurement**: NVIDIA H100 SXM, 1024x1024, 3 ")
    content = json.loads((tmp_path / "h100.json").read_text())
    assert (content["kind"], content["measured"]) == ("prediction", False)
    assert content["created"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runs", 0), "runs: must be from 1"),
        (("--warmup", 0), "warmup: must be from 1"),
        (("--cold-starts", -1), "cold_starts: must be from 0"),
        (("--image", "photo.png"), "image: a photo and its mask go together"),
        (("--image", "a.png", "--mask", "b.png"), "image: .*a.png is no file"),
        (("--image-size", "source"), "image_size: 'source' has no size of its own"),
        (("--sweep", "colour"), "sweep: 'colour' is none"),
        (("--peers", "abacus"), "peers: abacus is none"),
        (("--predict", "abacus"), "predict: no data sheet of 'abacus'"),
        (("--compare", "a.json", "b.json"), "compare: a.json cannot be read"),
        (("--json", "/dev/null/a.json"), "output: /dev/null/a.json cannot be written"),
        (("--plot", "/dev/null/plots"), "plot: /dev/null/plots cannot be made"),
        (("--steps", 8, "--strength", 2), "strength: must be from 0.01 to 1"),
    ],
)
def test_what_is_refused_before_anything_is_measured(
    bench: Callable[..., Ran], arguments: tuple[object, ...], message: str
) -> None:
    ran = bench(*arguments)
    assert ran.status == 2
    assert re.search(message, ran.err.replace("\n", " "))
    assert ran.out == ""


def test_the_suites_run_what_they_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every command of every suite is one that the command line takes."""
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(suite, "_run", lambda *arguments: ran.append(arguments))
    monkeypatch.setattr(suite.host_overhead, "main", lambda: None)
    monkeypatch.setattr(suite, "_why_not", lambda bundle, precision: None)
    for name in suite.SUITES:
        monkeypatch.setattr("sys.argv", [
            "suite", name, "--results", str(tmp_path), "--directory", str(tmp_path / "made"),
        ])  # fmt: skip
        suite.main()
    modules = {arguments[2] for arguments in ran}
    assert modules == {"lightfill", "lightfill.export.synthetic_checkpoint"}
    commands = [arguments[3:] for arguments in ran if arguments[2] == "lightfill"]
    names = [each[each.index("--json") + 1] for each in commands if "--json" in each]
    assert [Path(name).name for name in names] == [
        "demo.json",
        *(f"demo-by-{varies}.json" for varies in ("image_size", "batch", "steps", "concurrency")),
        "host-overhead.json",
        "demo.json",
        "demo-bf16.json",
        *(f"sdxl-512{device}.json" for device in ("", "-openvino", "-bf16")),
        *(f"sdxl-1024{device}.json" for device in ("", "-openvino", "-bf16", "-int8-bf16")),
        "sdxl-by-image_size.json",
        "sdxl-by-steps.json",
        "sdxl-512-int8-bf16.json",
    ]
    assert sum("--peers" in each for each in commands) == 3
    group = cli.typer.main.get_command(cli.app)
    for each in commands:
        parameters = group.commands[each[0]].params
        options = {name for part in parameters for name in (*part.opts, *part.secondary_opts)}
        assert {word for word in each if word.startswith("--")} <= options


def test_what_openvino_cannot_run_here_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused() -> None:
        raise DeviceUnavailable("this processor has none")

    monkeypatch.setattr(openvino, "require_bfloat16", lambda: None)
    monkeypatch.setattr(suite.memory, "available_bytes", lambda: 10**12)
    assert suite._why_not(DEMO_BUNDLE, None) is None
    assert suite._why_not(DEMO_BUNDLE, "bf16") is None
    assert "lightfill quantize" in str(suite._why_not(DEMO_BUNDLE, "int8+bf16"))
    monkeypatch.setattr(suite.memory, "available_bytes", lambda: 10**6)
    assert suite._why_not(DEMO_BUNDLE, "bf16") == "it needs 1 GB of memory"
    monkeypatch.setattr(openvino, "require_bfloat16", refused)
    assert suite._why_not(DEMO_BUNDLE, "bf16") == "this processor has none"
