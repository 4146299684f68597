"""Figures of verification, by hand: the largest error, and decibels of the largest value."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightfill.engine.errors import ExportError
from lightfill.engine.manifest import Arithmetic, Verification
from lightfill.export.verification import MINIMUM_PSNR, SIZES, _compare

REFERENCE = np.array([[3.0, -4.0, 1.0, 0.0]], np.float32)


def compared(
    *pairs: tuple[Any, Any], arithmetic: Arithmetic = "float16", role: str = "text_encoder_2"
) -> Verification:
    found, expected = ([np.asarray(pair[side], np.float32) for pair in pairs] for side in (0, 1))
    return _compare(arithmetic, SIZES[0], role, found, expected)


def test_error_is_the_largest_and_decibels_are_of_the_largest_value() -> None:
    found = compared((REFERENCE + np.array([0, 0.02, 0, 0]), REFERENCE))
    assert found.max_abs_error == pytest.approx(0.02, rel=1e-5)
    assert found.psnr_db == pytest.approx(20 * math.log10(4 / 0.01), abs=1e-4)  # RMS of 4 numbers
    assert found.passed


def test_the_worst_output_decides() -> None:
    worse = REFERENCE + np.float32(0.1)
    found = compared((REFERENCE, REFERENCE), (worse, REFERENCE))
    assert found == compared((worse, REFERENCE), (REFERENCE, REFERENCE))
    assert found.max_abs_error == pytest.approx(0.1, rel=1e-5)
    assert found.psnr_db == pytest.approx(20 * math.log10(4 / 0.1), abs=1e-4)
    assert not found.passed


@pytest.mark.parametrize("reference", [REFERENCE, np.zeros((1, 4), np.float32)])
def test_equal_is_999_decibels_which_json_can_say(reference: NDArray[np.float32]) -> None:
    found = compared((reference, reference))
    assert (found.max_abs_error, found.psnr_db, found.passed) == (0, 999, True)


@pytest.mark.parametrize("arithmetic", ["float32", "float16"])
def test_the_minimum_parts_passed_from_failed(arithmetic: Arithmetic) -> None:
    border = 4 / 10 ** (MINIMUM_PSNR[arithmetic] / 20)
    for factor, passed in ((0.9, True), (1.1, False)):
        found = np.asarray(REFERENCE, np.float64) + factor * border
        assert _compare(arithmetic, SIZES[0], "unet", [found], [REFERENCE]).passed is passed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["the graph", "PyTorch", "both"])
def test_what_is_not_finite_fails_wherever_it_is(value: float, where: str) -> None:
    spoilt = REFERENCE.copy()
    spoilt[0, 2] = value
    found = compared((REFERENCE if where == "PyTorch" else spoilt,
                      REFERENCE if where == "the graph" else spoilt))  # fmt: skip
    assert (found.max_abs_error, found.psnr_db, found.passed) == (math.inf, -999, False)


def test_a_constant_output_of_zeros_against_numbers_fails() -> None:
    assert not compared((np.zeros((1, 4)), REFERENCE)).passed
    assert not compared((REFERENCE, np.zeros((1, 4)))).passed


def test_another_shape_is_an_error_even_where_numpy_would_stretch_it() -> None:
    with pytest.raises(ExportError, match=r"unet: the float16 graph makes \(1, 4\) of what .*3, 4"):
        compared((REFERENCE, np.repeat(REFERENCE, 3, axis=0)), role="unet")


@pytest.mark.parametrize("arithmetic", ["float32", "float16"])
def test_a_checker_s_scores_may_round_to_neighbouring_thousandths(arithmetic: Arithmetic) -> None:
    scores = np.array([-0.031, -0.027], np.float32)
    one, two = (np.round(scores + steps * 0.001, 3) for steps in (1, 2))
    found = compared((one, scores), arithmetic=arithmetic, role="safety_checker")
    assert found.passed
    assert found.psnr_db < MINIMUM_PSNR["float16"]
    assert not compared((two, scores), arithmetic=arithmetic, role="safety_checker").passed
    assert not compared((one, scores), arithmetic=arithmetic, role="vae_decoder").passed


@pytest.mark.parametrize(
    ("role", "symbols"),
    [
        ("text_encoder", {"batch"}),
        ("safety_checker", {"batch"}),
        ("unet", {"batch", "height", "width"}),
        ("vae_encoder", {"batch", "height", "width"}),
        ("prompt_expander", {"batch", "tokens", "past"}),
    ],
)
def test_sizes_are_those_the_component_has(role: str, symbols: set[str]) -> None:
    sizes = compared((REFERENCE, REFERENCE), role=role).sizes
    assert sizes == {symbol: SIZES[0][symbol] for symbol in symbols}
