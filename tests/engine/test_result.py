"""Results on disk: whole files or none, in the format their name says."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightfill.engine import atomic_write
from lightfill.engine.errors import InvalidInput
from lightfill.engine.result import Result, Timings

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)


@pytest.fixture
def result() -> Result:
    return Result(
        images=tuple(Image.fromarray(pixels) for pixels in PIXELS),
        source=PIXELS[0],
        mask=np.ones((8, 12), bool),
        mask_cut_off=0.0,
        prompt="a red ball",
        truncated_prompt=None,
        seeds=(5, 6),
        steps=4,
        effective_steps=3,
        strength=0.95,
        device="cpu",
        safety_checker=None,
        has_nsfw_concepts=(False, False),
        timings=Timings(),
    )


def read_back(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def test_first_picture_and_seed_have_short_names(result: Result) -> None:
    assert result.image is result.images[0]
    assert result.seed == 5


@pytest.mark.parametrize("index", [0, 1, -1])
def test_png_holds_the_chosen_picture(result: Result, tmp_path: Path, index: int) -> None:
    path = result.save(tmp_path / "out.png", index)
    assert path == tmp_path / "out.png"
    assert (np.asarray(read_back(path)) == PIXELS[index]).all()


@pytest.mark.parametrize(
    ("name", "file_format"), [("a.PNG", "PNG"), ("a.jpg", "JPEG"), ("a.jpeg", "JPEG")]
)
def test_name_decides_the_format(
    result: Result, tmp_path: Path, name: str, file_format: str
) -> None:
    assert read_back(result.save(str(tmp_path / name))).format == file_format


def test_missing_directories_are_made_and_old_files_replaced(
    result: Result, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "deeper" / "out.png"
    result.save(path)
    result.save(path, 1)
    assert (np.asarray(read_back(path)) == PIXELS[1]).all()
    assert [file.name for file in path.parent.iterdir()] == ["out.png"]


def test_colour_profile_travels_into_the_file(result: Result, tmp_path: Path) -> None:
    picture = Image.fromarray(PIXELS[0])
    picture.info["icc_profile"] = b"a profile"
    path = replace(result, images=(picture,)).save(tmp_path / "out.jpg")
    assert read_back(path).info["icc_profile"] == b"a profile"


@pytest.mark.parametrize("name", ["out", "out.gif", "out.png.txt"])
def test_unknown_ending_is_refused_and_nothing_written(
    result: Result, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidInput, match=r"^output: "):
        result.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_place_that_cannot_be_written_is_one_sentence(result: Result, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInput, match=r"^output: .*out\.png cannot be written: ") as caught:
        result.save(tmp_path / "file" / "out.png")
    assert "\n" not in str(caught.value)


def test_failed_write_keeps_the_old_file_and_leaves_nothing(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = result.save(tmp_path / "out.png")
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_write.os, "fsync", full_disk)
    with pytest.raises(InvalidInput, match="No space left on device"):
        result.save(path, 1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_timings_add_up_over_repeated_stages_and_keep_their_order() -> None:
    timings = Timings()
    with timings.measure("text"):
        pass
    once = timings.text
    with pytest.raises(RuntimeError, match="mine"), timings.measure("text"):
        raise RuntimeError("mine")
    assert timings.text > once > 0
    stages = ["prepare", "text", "vae_encode", "unet", "vae_decode", "composite", "safety", "total"]
    assert list(timings.as_dict()) == stages
