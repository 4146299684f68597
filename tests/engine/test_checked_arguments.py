"""Arguments of every kind that are wrong: one of our errors, before or instead of a foreign one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from lightfill import Cancelled, Inpainter, InvalidInput, LightfillError
from lightfill.engine.result import Result

PHOTO = np.full((64, 96, 3), 120, np.uint8)
MASK = np.full((64, 96), 255, np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": "two"},
        {"threads": "2"},
        {"threads": 2.5},
        {"threads": 0},
        {"threads": 10**12},
        {"memory_arena": "yes"},
        {"low_memory": "yes"},
        {"low_memory": 1},
        {"device_index": -1},
        {"batch_size": 1.5},
        {"batch_size": 0},
        {"batch_size": "2"},
        {"cache_bytes": "5"},
        {"max_pixels": "5"},
        {"cache_bytes": None},
        {"cache_bytes": -1},
        {"max_pixels": None},
        {"max_pixels": 400_000_000},
        {"bundle": 123},
        {"bundle": "a\0b"},
        {"device": None},
    ],
    ids=str,
)
def test_open_refuses_values_no_runtime_takes(options: dict[str, Any]) -> None:
    with pytest.raises(LightfillError):
        Inpainter.open(**options)


def paint(inpainter: Inpainter, **changes: Any) -> Result:
    arguments = {"image": PHOTO, "mask": MASK, "prompt": "a red ball", "image_size": (64, 64)}
    return inpainter(**(arguments | {"steps": 1, "seed": 1} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"embeddings": 5},
        {"on_step": 3},
        {"composite": "no"},
        {"image_size": b"ab"},
        {"embeddings": [{"path": "a", "tokens": ["\ud800"]}]},
    ],
    ids=str,
)
def test_requests_refuse_them_too(demo_inpainter: Inpainter, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"^{next(iter(changes))}: "):
        paint(demo_inpainter, **changes)


@pytest.mark.parametrize(
    "save",
    [
        lambda result, folder: result.save(folder / "a.png", 5),
        lambda result, _: result.save(None),
        lambda result, folder: result.save(f"{folder}/a\0.png"),
        lambda result, folder: result.save(folder / ("x" * 300 + ".png")),
    ],
)
def test_saving_refuses_them_too(
    demo_inpainter: Inpainter, tmp_path: Path, save: Callable[[Result, Path], object]
) -> None:
    with pytest.raises(InvalidInput):
        save(paint(demo_inpainter), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_longest_file_name_the_system_takes_is_written(
    demo_inpainter: Inpainter, tmp_path: Path
) -> None:
    assert paint(demo_inpainter).save(tmp_path / ("x" * 251 + ".png")).exists()


def test_a_link_is_followed_and_stays(demo_inpainter: Inpainter, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "file.png")
    paint(demo_inpainter).save(tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "file.png").is_file()


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P"])
@pytest.mark.parametrize("transparency", [b"abc", (1, 2), "x", 7, (1, 2, 3)])
def test_odd_transparency_is_ours_to_report(
    demo_inpainter: Inpainter, mode: str, transparency: object
) -> None:
    picture = Image.fromarray(PHOTO).convert(mode)
    picture.info["transparency"] = transparency
    try:
        assert paint(demo_inpainter, image=picture).image.size == (64, 64)
    except InvalidInput as refused:
        if "cannot be decoded" not in str(refused):
            raise


class TurnedByDamage(Image.Image):
    """A picture whose EXIF raises when it is read, as damaged files' do."""

    def getexif(self) -> Image.Exif:
        raise SyntaxError("bad tag")


def test_a_photo_with_damaged_exif_is_taken_as_upright_and_said_so(
    demo_inpainter: Inpainter, caplog: pytest.LogCaptureFixture
) -> None:
    picture = TurnedByDamage()._new(Image.fromarray(PHOTO).im)
    picture.__class__ = TurnedByDamage
    result = paint(demo_inpainter, image=picture, fit="stretch", image_size="source")
    assert (result.source == PHOTO).all()
    assert "bad tag" in caplog.text


@pytest.mark.parametrize("answer", [False, np.False_])
def test_false_of_any_kind_cancels(demo_inpainter: Inpainter, answer: object) -> None:
    with pytest.raises(Cancelled, match="after step 1 of 4"):
        paint(demo_inpainter, steps=4, strength=1, on_step=lambda _: answer)


def test_tokens_of_two_embeddings_must_differ(demo_inpainter: Inpainter, tmp_path: Path) -> None:
    file = tmp_path / "vectors.safetensors"
    save_file({"clip_l": np.ones((1, 32), "f4"), "clip_g": np.ones((1, 48), "f4")}, file)
    twice = [{"path": file, "tokens": ["<y>"]}, {"path": file, "tokens": ["<y>"]}]
    with pytest.raises(InvalidInput, match="give every embedding its own"):
        paint(demo_inpainter, prompt="a <y>", embeddings=twice)
    one_each = [{"path": file, "tokens": ["<y>"]}, {"path": file, "tokens": ["<x>"]}]
    paint(demo_inpainter, prompt="a <y> <x>", embeddings=one_each)


def test_what_a_crop_cuts_off_the_mask_is_reported(
    demo_inpainter: Inpainter, caplog: pytest.LogCaptureFixture
) -> None:
    photo, mask = np.zeros((64, 256, 3), np.uint8), np.full((64, 256), 255, np.uint8)
    result = paint(demo_inpainter, image=photo, mask=mask)
    assert result.mask_cut_off == pytest.approx(0.75, abs=0.01)
    assert "75 % of the mask lies outside the crop" in caplog.text
    assert paint(demo_inpainter, image=photo, mask=mask, fit="pad").mask_cut_off == 0
    assert paint(demo_inpainter, image=photo, mask=mask, crop_to_mask=0.1).mask_cut_off == 0
