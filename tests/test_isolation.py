"""lightfill runs, and is imported, without what it does not need."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from statistics import median

from PIL import Image

PHOTO = Path(__file__).parents[1] / "examples" / "coffee.png"
EXPORT_ONLY = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx_ir")
LAZY = (*EXPORT_ONLY, "onnxruntime", "PIL", "tokenizers", "safetensors")
LAZY += ("pydantic", "platformdirs", "typer", "rich", "fastapi", "uvicorn", "httpcore2")
LAZY += ("sqlalchemy",)


def run(code: str, *arguments: object, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [sys.executable, *flags, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_a_photo_is_inpainted_where_pytorch_and_onnx_cannot_be_imported(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    code = f"""
    import sys

    FORBIDDEN = {EXPORT_ONLY!r}
    tried = []

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in FORBIDDEN:
                tried.append(name)
                raise ImportError(f"{{name}} is not for inference")

    sys.meta_path.insert(0, Refuse())
    for name in FORBIDDEN:
        try:
            __import__(name)
        except ImportError:
            continue
        raise SystemExit(f"{{name}} could be imported: this test proves nothing")
    tried.clear()

    from PIL import Image, ImageDraw
    from lightfill import Inpainter

    photo = Image.open(sys.argv[1])
    mask = Image.new("L", photo.size)
    ImageDraw.Draw(mask).ellipse((220, 120, 380, 260), fill=255)
    with Inpainter.open() as inpainter:
        result = inpainter(
            sys.argv[1], mask, "a blue circle", image_size=(256, 256), steps=4, strength=1.0,
            seed=7, crop_to_mask=0.5,
        )
    result.images[0].save(sys.argv[2])
    print(*tried, *(name for name in FORBIDDEN if name in sys.modules))
    """
    assert run(code, PHOTO, out).stdout.split() == []
    before, after = Image.open(PHOTO).convert("RGB"), Image.open(out)
    assert (after.format, after.size) == ("PNG", before.size)
    centre, corner = (300, 190), (10, 10)
    assert after.getpixel(corner) == before.getpixel(corner)
    assert after.getpixel(centre) != before.getpixel(centre)


def test_import_loads_no_runtime_and_no_codec() -> None:
    report = run("import lightfill", flags=("-X", "importtime")).stderr
    loaded = {
        name.partition(".")[0] for name in re.findall(r"\|\s*([\w.]+)$", report, re.MULTILINE)
    }
    assert "lightfill" in loaded
    assert loaded.isdisjoint(LAZY), loaded & set(LAZY)


def test_the_pipeline_loads_no_runtime_before_a_device_is_chosen() -> None:
    code = "import sys; from lightfill import Inpainter; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in run(code).stdout.split()}
    assert "numpy" in loaded
    assert loaded.isdisjoint({*EXPORT_ONLY, "onnxruntime", "typer", "rich", "fastapi"})


def seconds_to_import(name: str) -> float:
    """Measured inside a fresh process: starting Python itself is not counted."""
    code = f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
    return float(run(code).stdout)


def test_import_costs_at_most_two_and_a_half_numpys() -> None:
    names = ("lightfill", "numpy")
    for name in names:  # compile and page in once
        seconds_to_import(name)
    pairs = [[seconds_to_import(name) for name in names] for _ in range(7)]  # alternating
    ours, numpys = (median(times) for times in zip(*pairs, strict=True))
    print(f"import lightfill {1000 * ours:.0f} ms, import numpy {1000 * numpys:.0f} ms")
    assert ours <= 2.5 * numpys
