"""Weights are read one at a time, exactly as stored, and leave the memory again."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightfill.engine.errors import ExportError
from lightfill.export.tensors import FileWeights, SyntheticWeights, as_array, check_shapes

torch.set_num_threads(1)

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def stored() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{dtype}.{shape}": torch.randn(shape, generator=generator).to(dtype)
        for dtype in DTYPES
        for shape in ((), (1,), (7, 5), (4, 3, 3, 3))
    }
    return tensors | {"position_ids": torch.arange(77)[None]}


def as_it_is(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return tensors


def safetensors(tensors: Tensors, folder: Path) -> list[Path]:
    save_file(tensors, folder / "model.safetensors")
    return [folder / "model.safetensors"]


def pickle(tensors: Tensors, folder: Path) -> list[Path]:
    torch.save(tensors | {"not a tensor": 3}, folder / "model.bin")
    return [folder / "model.bin"]


def parameters(tensors: Tensors, folder: Path) -> list[Path]:
    torch.save(
        {
            key: torch.nn.Parameter(each, requires_grad=each.is_floating_point())
            for key, each in tensors.items()
        },
        folder / "model.bin",
    )
    return [folder / "model.bin"]


def shared_storage(tensors: Tensors, folder: Path) -> list[Path]:
    """A pickle in which one tensor is a part of another, as tied weights are."""
    tensors["whole"] = torch.arange(12.0).reshape(3, 4)
    tensors["part"] = tensors["whole"][1:, ::2]
    return pickle(tensors, folder)


def shards_of(write: Callable[[Tensors, Path], list[Path]]) -> Callable[..., list[Path]]:
    def shards(tensors: Tensors, folder: Path) -> list[Path]:
        files = []
        for index, key in enumerate(tensors):
            (folder / str(index)).mkdir()
            files += write({key: tensors[key]}, folder / str(index))
        return files

    return shards


@pytest.mark.parametrize(
    "write",
    [
        safetensors,
        pickle,
        parameters,
        shared_storage,
        shards_of(safetensors),
        shards_of(pickle),
        lambda tensors, folder: (
            shards_of(safetensors)(dict(list(tensors.items())[:9]), folder)
            + pickle(dict(list(tensors.items())[9:]), folder)
        ),
    ],
    ids=["safetensors", "pickle", "parameters", "shared", "shards", "pickled-shards", "mixed"],
)
def test_every_tensor_is_read_as_stored_into_memory_of_its_own(
    write: Callable[[Tensors, Path], list[Path]], stored: Tensors, tmp_path: Path
) -> None:
    tensors = dict(stored)
    weights = FileWeights(write(tensors, tmp_path), "x", as_it_is)
    assert weights.shapes() == {key: tuple(each.shape) for key, each in tensors.items()}
    for key in reversed(tensors):
        found = weights.read(key)
        assert found.dtype == tensors[key].dtype
        assert not found.requires_grad
        assert torch.equal(found, tensors[key]), key
        found.fill_(9)  # into the file, or into what the next reader gets?
        assert torch.equal(weights.read(key), tensors[key]), key


def test_views_of_an_arrangement_are_read_and_what_is_no_view_is_kept(tmp_path: Path) -> None:
    whole = torch.randn(6, 4)

    def arrange(tensors: Mapping[str, Tensor]) -> Tensors:
        (tensor,) = tensors.values()
        return {
            "rows": tensor[2:4],
            "columns": tensor.T[1],
            "reshaped": tensor.view(3, 2, 4).unbind()[1],
            "sum": tensor + 1,
        }

    for write in (safetensors, pickle):
        weights = FileWeights(write({"whole": whole}, tmp_path), "x", arrange)
        assert torch.equal(weights.read("rows"), whole[2:4])
        assert torch.equal(weights.read("columns"), whole.T[1])
        assert torch.equal(weights.read("reshaped"), whole[2:4])
        for _ in range(2):
            summed = weights.read("sum")
            assert torch.equal(summed, whole + 1)
            summed.zero_()


def test_the_fingerprint_is_of_the_files_content(stored: Tensors, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    a, b = safetensors(stored, tmp_path / "a"), safetensors(stored, tmp_path / "b")
    c = safetensors({**stored, "position_ids": torch.arange(78)[None]}, tmp_path / "c")
    assert len({FileWeights(files, "x", as_it_is).fingerprint for files in (a, b, c)}) == 2
    assert (
        FileWeights([*a, *c], "x", as_it_is).fingerprint
        != FileWeights([*c, *a], "x", as_it_is).fingerprint
    )


# --- memory ---------------------------------------------------------------------------------------

MEGABYTES = 300
MEASURED = """
import sys
from pathlib import Path

import psutil
from lightfill.export.tensors import FileWeights

process = psutil.Process()
file = Path(sys.argv[1])
FileWeights([file], "x", lambda tensors: tensors).read("0")  # what is loaded on first use
before, most, total = process.memory_info().rss, 0, 0
weights = FileWeights([file], "x", lambda tensors: tensors)
for key in weights.shapes():
    tensor = weights.read(key)
    total += tensor.nbytes
    assert float(tensor.sum()) != 0
    most = max(most, process.memory_info().rss - before)
    del tensor
print(total, most)
"""


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_reading_a_large_file_takes_the_memory_of_a_part_of_it(suffix: str, tmp_path: Path) -> None:
    tensors = {str(index): torch.ones(3 * 250_000) for index in range(MEGABYTES // 3)}
    file = tmp_path / f"model.{suffix}"
    save_file(tensors, file) if suffix == "safetensors" else torch.save(tensors, file)
    command = [sys.executable, "-c", MEASURED, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    total, most = map(int, ran.stdout.split())
    assert total == MEGABYTES * 1_000_000
    assert most < 100_000_000


# --- what is wrong with files ---------------------------------------------------------------------


@pytest.mark.parametrize("write", [safetensors, pickle])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_says_which_and_what_to_do(
    write: Callable[[Tensors, Path], list[Path]], kept: float, stored: Tensors, tmp_path: Path
) -> None:
    (file,) = write(dict(stored), tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ExportError, match=rf"{file.name} cannot be read .*; copy the checkpoint"):
        FileWeights([file], "x", as_it_is)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_that_is_something_else_or_nothing(suffix: str, tmp_path: Path) -> None:
    for file in (tmp_path / f"absent.{suffix}", tmp_path / f"text.{suffix}"):
        if file.stem == "text":
            file.write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(ExportError, match=f"{file.name} cannot be read as weights"):
            FileWeights([file], "x", as_it_is)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Harmful()}, tmp_path / "model.bin")
    with pytest.raises(ExportError, match="cannot be read as weights"):
        FileWeights([tmp_path / "model.bin"], "x", as_it_is)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_vanishes_after_it_was_opened(stored: Tensors, tmp_path: Path) -> None:
    (file,) = safetensors(stored, tmp_path)
    weights = FileWeights([file], "x", as_it_is)
    file.unlink()
    with pytest.raises(ExportError, match=r"model.safetensors cannot be read"):
        weights.read("position_ids")
    with pytest.raises(ExportError, match="x has no tensor 'absent'; copy"):
        weights.read("absent")


def test_missing_tensors_and_other_shapes_are_named() -> None:
    weights = SyntheticWeights({"a": (2, 3), "b": (4,)}, "x")
    check_shapes(weights, {"a": (2, 3)}, "unet")
    with pytest.raises(ExportError, match=r"lacks 2 of the 3 tensors of unet, such as 'c'; pass"):
        check_shapes(weights, {"a": (2, 3), "c": (1,), "d": (1,)}, "unet")
    with pytest.raises(ExportError, match=r"a has shape \(2, 3\), .* of unet wants \(3, 2\); pass"):
        check_shapes(weights, {"b": (4,), "a": (3, 2)}, "unet")


def test_arrays_are_rounded_and_what_float16_cannot_hold_is_refused() -> None:
    tensor = torch.tensor([[1.0, 2.0], [1 / 3, 65024.0]], dtype=torch.bfloat16).T
    found = as_array(tensor, torch.float16)
    assert found.dtype == np.float16
    assert found.flags.c_contiguous
    assert np.array_equal(found, tensor.to(torch.float16).numpy())
    with pytest.raises(OverflowError):
        as_array(torch.tensor([1e5]), torch.float16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_damage_in_every_precision(value: float, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        as_array(torch.tensor([1.0, value]), dtype)
