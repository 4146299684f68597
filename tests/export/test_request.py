"""What cannot be meant is refused before anything is fetched; what can has one form."""

from pathlib import Path
from typing import Any

import pytest

from lightfill.engine.errors import ExportError
from lightfill.export.request import MAX_STEPS, SDXL_BASE, ExportRequest
from lightfill.scheduler import Prediction


def request(**options: Any) -> ExportRequest:
    return ExportRequest(**{"out": Path("somewhere/bundle"), **options})


def test_the_default_is_sdxl_lightning_in_float16_with_both_graphs_verified() -> None:
    default = request()
    assert default.base is None
    assert default.follows_defaults
    assert default.steps == (1, 2, 4, 8)
    assert default.weights == "float16"
    assert default.arithmetics == ("float32", "float16")
    assert default.verify


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": ()}, r"steps \[\] are no step counts"),
        ({"steps": (4, 0)}, r"steps \[4, 0\] are no"),
        ({"steps": (-1,)}, "are no step counts"),
        ({"steps": (MAX_STEPS + 1,)}, f"pass one or more from 1 to {MAX_STEPS}"),
        ({"steps": (2.5,)}, "are no step counts"),
        ({"steps": ("4",)}, "are no step counts"),
        ({"steps": (True,)}, "are no step counts"),
        ({"arithmetics": ()}, "no arithmetic is asked for"),
        ({"arithmetics": ("bfloat16",)}, "'bfloat16' is no type of weights or graphs"),
        ({"weights": "int8"}, "'int8' is no type of weights or graphs"),
        ({"weights": "float32"}, "a float16 graph needs float16 weights"),
        ({"natural_size": 63}, "natural size 63"),
        ({"natural_size": 2049}, "natural size 2049"),
        ({"natural_size": 512.5}, "natural size 512.5"),
        ({"steps": (4,), "unets": {8: "a/b"}}, r"given for \[8\] steps, which --steps 4 does not"),
        ({"steps": (4,), "predictions": {2: Prediction.EPSILON}}, r"given for \[2\] steps"),
        ({"synthetic": "huge"}, "'huge' is no synthetic model; pass sdxl or tiny"),
        ({"synthetic": "tiny", "base": "a/b"}, "synthetic weights replace every checkpoint"),
        ({"synthetic": "tiny", "vae": "a/b"}, "synthetic weights replace"),
        ({"synthetic": "tiny", "unets": {4: "a/b"}}, "synthetic weights replace"),
        ({"synthetic": "tiny", "config": Path("a")}, "synthetic weights replace"),
        ({"revision": "main"}, "'main' is of a --base that names none itself"),
        ({"revision": "main", "base": "a/b@v1"}, "'main' is of a --base that names none itself"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message) as refused:
        request(**options)
    assert "; " in str(refused.value), "ends with what to do"
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": (1, MAX_STEPS)},
        {"natural_size": 64},
        {"natural_size": 2048},
        {"weights": "float32", "arithmetics": ("float32",)},
        {"arithmetics": ("float16",)},
        {"steps": (4,), "unets": {4: "a/b", None: "c/d"}},
        {"synthetic": "sdxl"},
        {"revision": "main", "base": "a/b"},
    ],
    ids=str,
)
def test_what_can_be_meant_is_accepted(options: dict[str, Any]) -> None:
    assert request(**options)


def test_counts_and_graphs_are_in_one_order_whatever_was_written() -> None:
    asked = request(steps=[8, 1, 8], arithmetics=["float16", "float32", "float16"])
    assert asked.steps == (1, 8)
    assert asked.arithmetics == ("float32", "float16")
    assert asked == request(steps=(1, 8))


@pytest.mark.parametrize(
    ("base", "follows"),
    [
        (None, True),
        (SDXL_BASE, True),
        (SDXL_BASE.partition("@")[0], True),
        (SDXL_BASE.partition("@")[0] + "@main", True),
        ("someone/else", False),
        (Path("stabilityai"), False),
    ],
    ids=str,
)
def test_only_sdxl_base_brings_lightning_and_another_vae(base: Any, *, follows: bool) -> None:
    assert request(base=base).follows_defaults is follows


def test_synthetic_weights_follow_no_checkpoint() -> None:
    assert not request(synthetic="sdxl").follows_defaults


def test_a_bundle_is_called_as_asked_or_as_its_directory() -> None:
    assert request().bundle_name == "bundle"
    assert request(name="another").bundle_name == "another"
