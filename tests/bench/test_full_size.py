"""The full-size benchmark, with a stand-in for `lightfill`: what it runs, measures and writes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightfill.bench import full_size
from lightfill.bench.full_size import BEGIN, END, Run, table

STAND_IN = """#!{python}
import json, os, sys
from pathlib import Path
arguments = sys.argv[1:]
with Path(__file__).with_name("calls.txt").open("a") as calls:
    print(*arguments, sep="|", file=calls)
if arguments[0] == os.environ.get("FAILING"):
    sys.exit("error: too little memory; free some")
if arguments[0] == "export":
    bundle = Path(arguments[arguments.index("--out") + 1])
    bundle.mkdir()
    (bundle / "lightfill.json").write_text({manifest!r})
    print("a table")
else:
    held = b"x" * (100 << 20)
    Path(arguments[arguments.index("--output") + 1]).touch()
    print(json.dumps({{"timings": {{"text": 0.25, "unet": [1.04, 0.96], "total": 3}}}}, indent=1))
"""
FIGURES = {"max_abs_error": 0.00123, "psnr_db": 71.26, "passed": True}
MANIFEST: dict[str, Any] = {
    "components": {
        "unet": {
            "weights": "unet/weights.bin",
            "verification": [
                {"arithmetic": "float16", "sizes": {"batch": 2, "height": 8}, **FIGURES},
                {"arithmetic": "float32", "sizes": {"batch": 1}, **FIGURES, "max_abs_error": 3e-7},
            ],
        },
        "vae_decoder": {"weights": "vae_decoder/weights.bin"},
    },
    "files": {
        "unet/weights.bin": {"bytes": 5_134_927_368},
        "vae_decoder/weights.bin": {"bytes": 99_000_000},
    },
}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stand-in was called with, beside this Python; the page it writes is a copy."""
    stand_in = tmp_path / "lightfill"
    stand_in.write_text(STAND_IN.format(python=sys.executable, manifest=json.dumps(MANIFEST)))
    stand_in.chmod(0o755)
    monkeypatch.setenv("PYTHON", sys.executable)
    page = tmp_path / "performance.md"
    page.write_text(f"# Measured\n\n{BEGIN}\nold figures\n{END}\n\nMore.\n")
    monkeypatch.setattr(full_size, "PAGE", page)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return tmp_path / "calls.txt"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["full_size", *map(str, arguments)])
    full_size.main()


def test_it_exports_once_and_paints_at_both_sizes(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "--directory", tmp_path)
    export, *requests = (line.split("|") for line in calls.read_text().splitlines())
    assert export[:5] == ["export", "--synthetic", "sdxl", "--steps", "4"]
    bundle = export[export.index("--out") + 1]
    assert Path(bundle).is_relative_to(tmp_path)
    assert not Path(bundle).exists(), "7 GB are not left behind"
    assert [call[call.index("--image-size") + 1] for call in requests] == ["square", "square_hd"]
    for call in requests:
        assert call[call.index("--bundle") + 1] == bundle
        assert Path(call[call.index("--image") + 1]).is_file()
        assert Path(call[call.index("--mask") + 1]).is_file()


def test_it_prints_what_it_measured_and_writes_it_only_when_told(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = full_size.PAGE.read_text()
    run(monkeypatch, "--directory", tmp_path)
    printed = capsys.readouterr().out
    assert full_size.PAGE.read_text() == before
    assert "| `lightfill export --synthetic sdxl --steps 4` | " in printed
    assert "| `lightfill inpaint --image-size square_hd` | " in printed
    assert str(tmp_path) not in printed
    run(monkeypatch, "--directory", tmp_path, "--write")
    written = full_size.PAGE.read_text()
    start, _, rest = written.partition(BEGIN)
    figures, _, end = rest.partition(END)
    assert (start, end) == ("# Measured\n\n", "\n\nMore.\n")
    assert "old figures" not in figures
    assert figures.strip() == capsys.readouterr().out.strip()


def test_a_bundle_that_exists_is_not_exported_again(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "mine"
    bundle.mkdir()
    (bundle / "lightfill.json").write_text(json.dumps(MANIFEST))
    run(monkeypatch, "--directory", tmp_path, "--bundle", bundle)
    assert [line.split("|")[0] for line in calls.read_text().splitlines()] == ["inpaint"] * 2
    assert bundle.exists()


@pytest.mark.parametrize("failing", ["export", "inpaint"])
def test_a_command_that_fails_ends_it_and_nothing_is_written(
    failing: str,
    calls: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FAILING", failing)
    before = full_size.PAGE.read_text()
    with pytest.raises(SystemExit, match=f"lightfill {failing} .* failed"):
        run(monkeypatch, "--directory", tmp_path, "--write")
    assert "error: too little memory; free some" in capfd.readouterr().err
    assert full_size.PAGE.read_text() == before
    assert not list(tmp_path.glob("full-size-*"))


MEASURE = """
import dataclasses, json, sys
from lightfill.bench import full_size
sys.executable = sys.argv[1]
found = full_size._measured("inpaint", "--output", sys.argv[2], "--image-size", "square")
print(json.dumps(dataclasses.asdict(found)))
"""


def test_a_command_is_measured_from_outside(calls: Path, tmp_path: Path) -> None:
    """Not from this process: whoever starts a command passes on its own peak, which is larger."""
    ran = subprocess.run(
        [os.environ["PYTHON"], "-c", MEASURE, sys.executable, tmp_path / "x.png"],
        stdout=subprocess.PIPE,
        check=True,
    )
    found = Run(**json.loads(ran.stdout))
    assert found.command == "lightfill inpaint --image-size square"
    assert 100 << 20 < found.peak_bytes < 190 << 20
    assert 0 < found.seconds < 60
    assert json.loads(found.output)["timings"]["text"] == 0.25


def test_the_table_to_the_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size, "_machine", lambda: "2 cores of an abacus, 8 GB, no GPU")
    timings = {"prepare": 0.05, "unet": [20.06, 19.0], "total": 41.5}
    runs = [
        Run("lightfill export --synthetic sdxl", 611.4, 1_234_567_890, "a table"),
        Run(
            "lightfill inpaint --image-size square",
            83.5,
            9_000_000_000,
            json.dumps({"timings": timings}),
        ),
    ]
    first, *lines = table(runs, MANIFEST).splitlines()
    assert first.startswith("2 cores of an abacus, 8 GB, no GPU, 20")
    assert first.endswith("; each line one run.")
    assert lines == [
        "",
        "| command | wall time | peak resident memory |",
        "|---|---|---|",
        "| `lightfill export --synthetic sdxl` | 611 s | 1.23 GB |",
        "| `lightfill inpaint --image-size square` | 84 s | 9.00 GB |",
        "",
        f"Seconds inside `{runs[1].command}`: UNet 20.1, 19.0; prepare 0.1, total 41.5.",
        "",
        "| component | weights | graph | sizes | max error | PSNR |",
        "|---|---|---|---|---|---|",
        "| unet | 5135 MB | float16 | batch 2 height 8 | 0.0012 | 71.3 dB |",
        "| unet | 5135 MB | float32 | batch 1 | 3e-07 | 71.3 dB |",
    ]


def test_the_page_has_a_place_for_the_table() -> None:
    text = full_size.PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    assert full_size._machine().endswith(" GB")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor : 0\n")
    monkeypatch.setattr(full_size.platform, "processor", lambda: "abacus")
    assert " cores of an abacus without AVX-512, " in full_size._machine()
    info = "model name : bead frame\nflags : avx2 avx512f\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: info)
    assert " cores of an bead frame with AVX-512, " in full_size._machine()
