"""The command line: what it writes and prints, and how every kind of wrong input ends."""

import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from bundles import flagged_picture
from PIL import Image

import lightfill
from lightfill.engine import cli, nsfw_classifier
from lightfill.engine.bundle import DEMO_BUNDLE
from lightfill.engine.images import encode
from lightfill.engine.pipeline import Inpainter

EXAMPLES = Path(__file__).parents[2] / "examples"


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `lightfill ARGS` in this process and return its status and output."""

    def run_with(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["lightfill", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capfd.readouterr()
        return Ran(int(stopped.value.code or 0), captured.out, captured.err)

    return run_with


@pytest.fixture
def inpaint(run: Run, tmp_path: Path) -> Run:
    """Run `lightfill inpaint` on the example at 64x64, with options replaced or added."""

    def run_with(**changes: object) -> Ran:
        options: dict[str, object] = {
            "image": EXAMPLES / "coffee.png",
            "mask": EXAMPLES / "coffee-mask.png",
            "prompt": "a green ball",
            "image_size": "64x64",
            "seed": 1,
            "output": tmp_path / "out.png",
        }
        flags: list[object] = []
        for name, value in {**options, **changes}.items():
            if value is not None:
                flags.append(f"--{name.replace('_', '-')}")
                flags += [] if value is True else [value]
        return run("inpaint", *flags)

    return run_with


def test_json_tells_seed_effective_steps_timings_device_versions_and_path(
    inpaint: Run, tmp_path: Path
) -> None:
    ran = inpaint(json=True)
    assert ran.status == 0
    report = json.loads(ran.out)
    assert report["seed"] == 1
    assert report["steps"] == 4
    assert report["effective_steps"] == 3
    assert report["device"] == "cpu"
    assert report["output"] == [str(tmp_path / "out.png")]
    assert report["size"] == [64, 64]
    assert {"python", "lightfill", "numpy", "onnxruntime"} <= report["versions"].keys()
    timings = report["timings"]
    assert len(timings["unet"]) == 3
    stages = sum(seconds for name, seconds in timings.items() if name not in ("unet", "total"))
    assert 0 < stages + sum(timings["unet"]) <= timings["total"]
    with Image.open(tmp_path / "out.png") as written:
        assert written.size == (64, 64)


def test_the_same_seed_twice_gives_the_same_file(inpaint: Run, tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file in files:
        assert inpaint(output=file).status == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert inpaint(output=files[1], seed=2).status == 0
    assert files[0].read_bytes() != files[1].read_bytes()


def test_a_random_seed_is_reported_and_repeats_the_picture(inpaint: Run, tmp_path: Path) -> None:
    first = json.loads(inpaint(seed=None, json=True).out)
    again = tmp_path / "again.png"
    inpaint(seed=first["seed"], output=again)
    assert again.read_bytes() == Path(first["output"][0]).read_bytes()


def test_several_images_get_numbered_files_and_following_seeds(
    inpaint: Run, tmp_path: Path
) -> None:
    report = json.loads(inpaint(num_images=2, json=True).out)
    assert report["seeds"] == [1, 2]
    assert report["output"] == [str(tmp_path / "out-1.png"), str(tmp_path / "out-2.png")]
    alone = tmp_path / "alone.png"
    inpaint(seed=2, output=alone)
    assert alone.read_bytes() == (tmp_path / "out-2.png").read_bytes()


def test_format_names_the_default_output(
    inpaint: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert inpaint(output=None, format="jpeg").status == 0
    with Image.open("coffee-inpainted.jpeg") as written:
        assert written.format == "JPEG"


def test_diffusers_parity_options_change_the_picture(inpaint: Run, tmp_path: Path) -> None:
    assert inpaint().status == 0
    parity = tmp_path / "parity.png"
    assert inpaint(output=parity, blend="diffusers", no_composite=True, fit="stretch").status == 0
    assert parity.read_bytes() != (tmp_path / "out.png").read_bytes()


def test_paths_with_brackets_are_written_and_printed_as_they_are(
    inpaint: Run, tmp_path: Path
) -> None:
    output = tmp_path / "a[/b][bold]c.png"
    output.parent.mkdir(parents=True, exist_ok=True)
    ran = inpaint(output=output)
    assert ran.status == 0
    assert str(output) in ran.out
    assert output.exists()


def test_an_output_that_cannot_be_written_is_found_before_the_model_is_opened(
    inpaint: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inpainter, "open", lambda *_, **__: pytest.fail("opened a model"))
    (tmp_path / "file").write_text("in the way")
    ran = inpaint(output=tmp_path / "file" / "out.png")
    assert_one_clear_sentence(ran, "choose another path", status=2)
    (tmp_path / "folder.png").mkdir()
    ran = inpaint(output=tmp_path / "folder.png")
    assert_one_clear_sentence(ran, "is a directory", status=2)


def test_version_is_printed(run: Run) -> None:
    assert run("--version").out.strip() == lightfill.__version__


def test_help_keeps_what_stands_in_brackets(run: Run) -> None:
    assert "lightfill[export]" in run("export", "--help").out
    assert "[default:IMAGE-inpainted.png]" in "".join(run("inpaint", "--help").out.split())


def _png_header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def _file(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def _saved(tmp_path: Path, array: np.ndarray) -> Path:
    path = tmp_path / "saved.png"
    Image.fromarray(array).save(path)
    return path


def _ends_only() -> bytes:
    """A mask whose two ends are white: a square crop around its middle shows neither."""
    mask = np.zeros((10, 1000), np.uint8)
    mask[:, [0, 999]] = 255
    return encode(Image.fromarray(mask), "png")


BAD_INPUT: dict[str, tuple[Callable[[Path], dict[str, object]], str]] = {
    "missing file": (lambda tmp: {"image": tmp / "absent.png"}, "absent.png cannot be read"),
    "directory": (lambda tmp: {"image": tmp}, "cannot be read"),
    "not an image": (lambda tmp: {"image": _file(tmp, "a.png", b"hello")}, "not a picture"),
    "empty file": (lambda tmp: {"mask": _file(tmp, "a.png", b"")}, "not a picture"),
    "truncated image": (
        lambda tmp: {
            "image": _file(tmp, "cut.png", (EXAMPLES / "coffee.png").read_bytes()[:100_000])
        },
        "cannot be decoded",
    ),
    "bomb": (
        lambda tmp: {"image": _file(tmp, "bomb.png", _png_header_only(10_000, 10_000))},
        "100 megapixels, the limit is 64",
    ),
    "huge bomb": (
        lambda tmp: {"mask": _file(tmp, "bomb.png", _png_header_only(40_000, 40_000))},
        "scale it down",
    ),
    "zero-size mask": (
        lambda tmp: {"mask": _file(tmp, "zero.png", _png_header_only(0, 0))},
        "mask:",
    ),
    "empty mask": (
        lambda tmp: {"mask": _saved(tmp, np.zeros((8, 8), np.uint8))},
        "nothing in it is white",
    ),
    "strength 0": (lambda _: {"strength": 0}, "strength: must be from 0.01 to 1"),
    "strength 1.5": (lambda _: {"strength": 1.5}, "strength: must be from 0.01 to 1"),
    "strength nan": (lambda _: {"strength": "nan"}, "strength: must be a number"),
    "size too small": (lambda _: {"image_size": "8x8"}, "image_size: must be from 64 to 2048"),
    "size too large": (lambda _: {"image_size": "64x4096"}, "image_size: must be from 64"),
    "size unknown": (lambda _: {"image_size": "huge"}, "image_size: 'huge' is neither"),
    "too many images": (lambda _: {"num_images": 9}, "num_images: must be from 1 to 8"),
    "negative seed": (lambda _: {"seed": -1}, "seed: must be from 0"),
    "fit unknown": (lambda _: {"fit": "cover"}, "'cover' is not one of crop, stretch, pad"),
    "blend unknown": (lambda _: {"blend": "x"}, "'x' is not one of context, diffusers"),
    "output ending": (lambda tmp: {"output": tmp / "out.tiff"}, "use .png, .jpg or .jpeg"),
    "format against output": (lambda _: {"format": "jpeg"}, "leave one of them out"),
    "format unknown": (lambda _: {"format": "webp"}, "not one of jpeg, png"),
    "no threads": (lambda _: {"threads": 0}, "threads: must be from 1 to 1024"),
    "mask outside the crop": (
        lambda tmp: {
            "image": _saved(tmp, np.zeros((10, 1000, 3), np.uint8)),
            "mask": _file(tmp, "ends.png", _ends_only()),
        },
        "nothing of it is left",
    ),
    "embedding absent": (lambda tmp: {"embedding": tmp / "a.safetensors"}, "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_wrong_input_ends_in_one_sentence_and_status_2(
    kind: str, inpaint: Run, tmp_path: Path
) -> None:
    changes, expected = BAD_INPUT[kind]
    ran = inpaint(**changes(tmp_path))
    assert_one_clear_sentence(ran, expected, status=2)
    assert not (tmp_path / "out.png").exists()


def test_steps_the_bundle_lacks_name_the_command_that_adds_them(inpaint: Run) -> None:
    assert_one_clear_sentence(inpaint(steps=3), "no UNet for 3 steps (it has 1, 2, 4, 8)", status=1)


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cuda", "no CUDAExecutionProvider"), ("quantum", "there is no device 'quantum'")],
)
def test_an_unavailable_device_is_never_replaced(inpaint: Run, device: str, expected: str) -> None:
    assert_one_clear_sentence(inpaint(device=device), expected, status=1)


def test_a_safety_checker_that_is_not_there_is_an_error_when_demanded(
    inpaint: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nsfw_classifier, "find_spec", lambda _: None)
    message = "the bundle has no safety_checker, and safety checker v2 needs the package"
    assert_one_clear_sentence(inpaint(safety_checker=True), message, status=1)


def test_a_flagged_picture_and_an_expanded_prompt_are_told(inpaint: Run, tmp_path: Path) -> None:
    speck = Image.new("L", (256, 256))
    speck.paste(255, (0, 0, 8, 8))
    speck.save(tmp_path / "speck.png")
    flagged_picture().save(tmp_path / "ellipses.png")
    given = {"image": tmp_path / "ellipses.png", "mask": tmp_path / "speck.png", "steps": 1}
    ran = inpaint(**given, image_size="source", safety_checker_version="v2", expand_prompt=True)
    assert ran.status == 0
    assert "safety checker v2: black instead of picture 1\n" in ran.out
    assert "prompt: a green ball, highly detailed, sharp focus" in ran.out
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.getextrema() == ((0, 0),) * 3
    plain = inpaint()
    assert "prompt:" not in plain.out
    assert "safety checker" not in plain.out


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda bundle: (bundle / "lightfill.json").unlink(), "is not a bundle"),
        (lambda bundle: (bundle / "unet/weights.bin").unlink(), "weights.bin is missing"),
        (lambda bundle: (bundle / "vae_decoder/float32.onnx").write_bytes(b"x"), "has 1 bytes"),
        (lambda bundle: _flip_byte(bundle / "unet/weights.bin"), "differs from its manifest"),
    ],
)
def test_a_damaged_bundle_names_the_file_and_the_fix(
    inpaint: Run, tmp_path: Path, damage: Callable[[Path], object], expected: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(DEMO_BUNDLE, bundle)
    damage(bundle)
    assert_one_clear_sentence(inpaint(bundle=bundle), expected, status=1)


def test_a_full_command_in_its_own_process_prints_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from lightfill.engine.cli import main; main()"]
    ran = subprocess.run(
        [*command, "inpaint", "--image", tmp_path / "a", "--mask", "b", "--prompt", "c"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert_one_clear_sentence(Ran(ran.returncode, ran.stdout, ran.stderr), "cannot be read", 2)


def test_doctor_reports_every_device_and_extra(run: Run) -> None:
    ran = run("doctor")
    assert ran.status == 0
    for word in ("cpu", "openvino", "cuda", "onnxruntime", "export", "pip install"):
        assert word in ran.out


def test_info_lists_components_steps_and_licences(run: Run) -> None:
    ran = run("info")
    assert ran.status == 0
    for word in ("lightfill-demo", "vae_decoder", "v_prediction", "licence", "natural size 256"):
        assert word in ran.out
    manifest = json.loads(run("info", "--json", "--check").out)
    assert manifest["steps"].keys() == {"1", "2", "4", "8"}


@pytest.mark.parametrize("command", ["inpaint", "doctor", "info", "export"])
def test_every_command_has_help(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.status == 0
    assert "Usage" in ran.out


def test_export_refuses_what_is_no_checkpoint(run: Run, tmp_path: Path) -> None:
    ran = run("export", "--base", tmp_path, "--out", tmp_path / "bundle")
    assert_one_clear_sentence(ran, "is not a diffusers SDXL folder", status=1)
    ran = run("export", "--base", tmp_path, "--out", tmp_path / "bundle", "--steps", "four")
    assert_one_clear_sentence(ran, "write it as 1,2,4,8", status=1)


def assert_one_clear_sentence(ran: Ran, expected: str, status: int) -> None:
    assert ran.status == status, ran
    assert expected in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def _flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
