"""`lightfill export`: options become a request, wrong ones a sentence, results a table."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from huggingface_hub import constants
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from lightfill.engine import cli
from lightfill.engine.errors import ExportError
from lightfill.engine.manifest import Verification
from lightfill.export import command
from lightfill.export.command import export_from_command_line, summary
from lightfill.export.lora import Lora
from lightfill.export.progress import ComponentReport, ExportReport, Progress
from lightfill.export.request import ExportRequest
from lightfill.scheduler import Prediction

OPTIONS = (
    "--out", "--steps", "--base", "--unet", "--prediction", "--vae", "--config", "--dtype",
    "--arithmetic", "--lora", "--safety-checker", "--prompt-expander", "--revision",
    "--local-files-only", "--synthetic", "--verify", "--no-verify", "--name", "--natural-size",
)  # fmt: skip

Parse = Callable[..., ExportRequest]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """What `lightfill export --out bundle ARGS` asks for; nothing is exported."""
    requests: list[ExportRequest] = []

    def record(request: ExportRequest, progress: Progress) -> ExportReport:
        requests.append(request)
        return ExportReport(request.out, ())

    def parsed(*arguments: str) -> ExportRequest:
        ran = CliRunner().invoke(cli.app, ["export", "--out", "bundle", *arguments])
        if ran.exception and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        assert ran.exit_code == 0, ran.output
        assert "bundle is ready: `lightfill inpaint --bundle bundle ...`\n" in ran.stdout
        return requests.pop()

    monkeypatch.setattr(command, "export_bundle", record)
    return parsed


def asked(**options: Any) -> ExportRequest:
    return ExportRequest(out=Path("bundle"), **options)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("", {}),
        ("--steps 4", {"steps": (4,)}),
        ("--steps 8,1,4,4", {"steps": (1, 4, 8)}),
        ("--base owner/name@v1", {"base": "owner/name@v1"}),
        ("--base owner/name --revision v1", {"base": "owner/name", "revision": "v1"}),
        ("--unet file", {"unets": {None: "file"}}),
        ("--unet 4=a --unet 8=b", {"unets": {4: "a", 8: "b"}}),
        ("--unet b --unet 4=a=c", {"unets": {None: "b", 4: "a=c"}}),
        ("--unet a=b", {"unets": {None: "a=b"}}),
        ("--prediction sample", {"predictions": {None: Prediction.SAMPLE}}),
        (
            "--prediction 1=sample --prediction 4=v_prediction",
            {"predictions": {1: Prediction.SAMPLE, 4: Prediction.V_PREDICTION}},
        ),
        ("--vae owner/vae", {"vae": "owner/vae"}),
        ("--base a.safetensors --config c", {"base": "a.safetensors", "config": Path("c")}),
        ("--dtype fp16", {}),
        ("--dtype fp32", {"weights": "float32", "arithmetics": ("float32",)}),
        ("--arithmetic float16", {"arithmetics": ("float16",)}),
        ("--arithmetic float16 --arithmetic float32", {}),
        ("--lora a --lora b:0.5", {"loras": (Lora(Path("a")), Lora(Path("b"), 0.5))}),
        ("--safety-checker a/b", {"safety_checker": "a/b"}),
        ("--prompt-expander a/b", {"prompt_expander": "a/b"}),
        ("--local-files-only", {"local_files_only": True}),
        ("--synthetic tiny", {"synthetic": "tiny"}),
        ("--verify", {}),
        ("--no-verify", {"verify": False}),
        ("--name mine --natural-size 512", {"name": "mine", "natural_size": 512}),
    ],
)
def test_options_become_a_request(arguments: str, wanted: dict[str, Any], parse: Parse) -> None:
    assert parse(*arguments.split()) == asked(**wanted)


WRONG = {
    "--steps four": "--steps 'four' is no list of numbers; write it as 1,2,4,8",
    "--steps 1,,4": "--steps '1,,4' is no list of numbers",
    "--steps 0": "steps [0] are no step counts",
    "--steps 1001": "steps [1001] are no step counts",
    "--base absent": "'absent' is neither an existing path nor a hub id",
    "--base a/b@v1 --revision v2": "revision 'v2' is of a --base that names none itself",
    "--revision v2": "revision 'v2' is of a --base",
    "--unet 4=": "--unet '4=' names nothing; write --unet 4=VALUE",
    "--unet 4=a --unet 4=b": "--unet says 'a' and 'b' for 4 steps; leave one out",
    "--unet a --unet b": "--unet says 'a' and 'b' for all step counts not named",
    "--unet 3=a": "a UNet or prediction is given for [3] steps, which --steps 1,2,4,8 does not",
    "--unet \u00b2=absent --base .": "is not a diffusers SDXL folder",
    "--prediction noise": "--prediction 'noise' is not known; pass epsilon or sample or v_",
    "--prediction 4=noise": "--prediction 'noise' is not known",
    "--prediction 3=sample": "is given for [3] steps",
    "--dtype int8": "--dtype 'int8' is not known; pass fp16 or fp32",
    "--arithmetic half": "--arithmetic 'half' is not known; pass float32 or float16",
    "--dtype fp32 --arithmetic float16": "a float16 graph needs float16 weights",
    "--lora a:much": "'a:much' names no file, and 'much' is no scale; write PATH or PATH:SCALE",
    "--lora a:nan": "cannot be merged with scale nan",
    "--synthetic tiny --lora absent": "absent cannot be read",
    "--synthetic huge": "--synthetic 'huge' is not known; pass sdxl or tiny",
    "--synthetic tiny --base a/b": "synthetic weights replace every checkpoint",
    "--synthetic tiny --vae a/b": "synthetic weights replace every checkpoint",
    "--synthetic tiny --steps 4 --safety-checker absent": "'absent' is neither an existing path",
    "--synthetic tiny --steps 4 --prompt-expander absent": "'absent' is neither an existing path",
    "--natural-size 8192": "natural size 8192 cannot be; pass 64..2048 pixels",
    "--local-files-only --base a/b": "looking up a/b failed, it is not in the local cache",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_a_wrong_value_ends_in_one_sentence_and_status_1(
    arguments: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightfill", "export", "--out", "x", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capfd.readouterr()
    assert (stopped.value.code, out) == (1, "")
    assert err.startswith("error: ")
    assert WRONG[arguments] in err
    assert re.fullmatch(r"[^\n]+; [^\n]+\n", err), err
    assert not list(tmp_path.iterdir())


def test_the_help_lists_every_option() -> None:
    shown = CliRunner().invoke(cli.app, ["export", "--help"], env={"COLUMNS": "100"}).stdout
    export = typer.main.get_command(cli.app).commands["export"]  # type: ignore[attr-defined]
    known = {name for each in export.params for name in (*each.opts, *each.secondary_opts)}
    assert known == {*OPTIONS}
    for option in OPTIONS:
        assert re.search(rf"(^| ){option}\b", shown, re.MULTILINE), option


# --- what is shown --------------------------------------------------------------------------------


def verification(
    arithmetic: Any, error: float, psnr: float, *, passed: bool = True
) -> Verification:
    return Verification(
        arithmetic=arithmetic, sizes={}, max_abs_error=error, psnr_db=psnr, passed=passed
    )


MADE = ComponentReport(
    "text_encoder_2", 695_000_000,
    (
        verification("float32", 1e-6, 131), verification("float32", 2e-6, 135),
        verification("float16", 0.003, 72), verification("float16", 0.002, 71.25),
    ),
    made=True, seconds=12.4, peak_bytes=1_230_000_000,
)  # fmt: skip
KEPT = ComponentReport("unet-1-2-4-8step", 5_135_000_000, ())


def shown(table: Any, width: int = 80) -> str:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(table)
    return screen.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_summary_has_the_worst_of_every_graph() -> None:
    report = ExportReport(Path("bundle"), (MADE, KEPT))
    rows = [" ".join(line.split()) for line in shown(summary(report), 120).splitlines()]
    assert rows[1:] == [
        "text_encoder_2 695.0 MB 12 s 1.23 GB float32 2e-06 131.0 dB yes",
        "float16 0.003 71.2 dB yes",
        "unet-1-2-4-8step 5135.0 MB was there not verified",
    ]
    failed = ComponentReport("vae", 1, (verification("float16", 9, 12, passed=False),), made=True)
    assert "NO" in shown(summary(ExportReport(Path("bundle"), (failed,))))


def test_the_summary_fits_a_terminal_of_80_columns() -> None:
    lines = shown(summary(ExportReport(Path("bundle"), (MADE, KEPT)))).splitlines()
    assert all(len(line) <= 80 for line in lines)
    for name in ("text_encoder_2", "unet-1-2-4-8step"):
        assert any(name in line for line in lines), "whole, not cut short"


def from_command_line(screen: Console) -> ExportReport:
    return export_from_command_line(
        out=Path("bundle"), steps="4", unet=[], prediction=[], lora=[], dtype="fp16",
        arithmetic=[], synthetic=None, screen=screen,
    )  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_drawn_on_a_terminal_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(request: ExportRequest, progress: Progress) -> ExportReport:
        progress.end(KEPT)
        progress.begin(MADE.name, MADE.bytes)
        for stage in ("tracing float32", "writing weights"):
            progress.stage(MADE.name, stage)
            progress.advance(MADE.name, MADE.bytes // 2)
        progress.end(MADE)
        return ExportReport(request.out, (KEPT, MADE))

    monkeypatch.setattr(command, "export_bundle", export)
    screen = Console(file=io.StringIO(), width=150, force_terminal=terminal)
    assert from_command_line(screen).components == (KEPT, MADE)
    written = re.sub(r"\x1b\[[\d;?]*\w", "", screen.file.getvalue())  # type: ignore[attr-defined]
    before, _, table = written.partition(" component ")
    assert "text_encoder_2" in table
    if not terminal:
        assert before.strip() == ""
        return
    for text in (KEPT.name, "was there", MADE.name, "peak 1.23 GB", "695.0/695.0 MB"):
        assert text in before, text


def test_bars_end_when_an_export_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def export(request: ExportRequest, progress: Progress) -> ExportReport:
        progress.begin(MADE.name, MADE.bytes)
        raise ExportError("a [bracket] is wrong; do something")

    monkeypatch.setattr(command, "export_bundle", export)
    screen = Console(file=io.StringIO(), width=150, force_terminal=True)
    with pytest.raises(ExportError, match="bracket"):
        from_command_line(screen)
    assert screen.file.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"  # type: ignore[attr-defined]


# --- the real thing -------------------------------------------------------------------------------


@pytest.mark.slow  # needs the traces of the random bundle, and starts PyTorch in a process
def test_export_info_and_inpaint_from_a_shell(random_bundle: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[str, str]:
        script = Path(sys.executable).with_name("lightfill")
        ran = subprocess.run(
            [script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout, ran.stderr

    out, err = run("export", "--synthetic", "tiny", "--steps", "4", "--out", "tiny")
    assert out == "tiny is ready: `lightfill inpaint --bundle tiny ...`\n"
    table = err.splitlines()
    parts = ("text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder", "unet-4step")
    assert [row.split()[0] for row in table if row.split()[0] in parts] == [*parts]
    assert sum(" yes" in row for row in table) == 2 * len(parts)
    assert len(table) <= 2 + 2 * len(parts), "nothing but the table"

    listed = run("info", "tiny")[0]
    assert "from synthetic tiny; natural size 64" in listed
    assert "steps: 4 (unet-4step, epsilon)" in listed

    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    run(
        "inpaint", "--bundle", "tiny", "--image", "photo.png", "--mask", "mask.png",
        "--prompt", "a ball", "--image-size", "64x64", "--output", "out.png", "--seed", "1",
    )  # fmt: skip
    with Image.open(tmp_path / "out.png") as written:
        assert written.size == (64, 64)
        assert np.asarray(written).std() > 5
