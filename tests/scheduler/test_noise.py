"""Seeded noise against `torch.randn` on the CPU.

How close: equal bit for bit where PyTorch runs its AVX2 kernel, and everywhere for draws of fewer
than 16 values. Its portable kernel rounds log and angle otherwise: at most 12 ulp at the magnitude
max(|x|, 2).
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightfill.scheduler import TorchNoise

VECTORISED = torch.backends.cpu.get_cpu_capability().startswith("AVX")
ULPS = 0 if VECTORISED else 12
MAGNITUDE = np.float32(2)
NAMED_SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**32 + 5, 2**63, 2**64 - 1]
RANDOM_SEEDS = [
    int(seed) for seed in np.random.default_rng(7).integers(0, 2**64 - 1, 50, np.uint64)
]
SHAPES = [(1,), (3,), (15,), (16,), (17,), (100,), (1, 4, 32, 32), (2, 4, 24, 40)]


def torch_stream(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def assert_same_noise(ours: np.ndarray, theirs: torch.Tensor) -> None:
    expected = theirs.numpy()
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype == np.float32
    difference = np.abs(ours.astype(np.float64) - expected)
    ulp = np.spacing(np.maximum(np.abs(expected), MAGNITUDE))
    assert (difference <= ULPS * ulp).all(), f"{(difference / ulp).max()} ulp"


@pytest.mark.parametrize("seed", NAMED_SEEDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_draw_equals_torch_randn(seed: int, shape: tuple[int, ...]) -> None:
    ours = TorchNoise(seed).normal(shape)
    assert_same_noise(ours, torch.randn(shape, generator=torch_stream(seed)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fifty_random_seeds_equal_torch_randn(shape: tuple[int, ...]) -> None:
    for seed in RANDOM_SEEDS:
        ours = TorchNoise(seed).normal(shape)
        assert_same_noise(ours, torch.randn(shape, generator=torch_stream(seed)))


@pytest.mark.parametrize("seed", NAMED_SEEDS)
def test_successive_draws_of_mixed_sizes_equal_torch(seed: int) -> None:
    ours, theirs = TorchNoise(seed), torch_stream(seed)
    # Odd small draws leave half a pair behind, which the next small draw uses and a large one not.
    for shape in [(1,), (3,), (16,), (1,), (2, 2), (17,), (15,), (100,), (5,), (1, 4, 8, 8), (1,)]:
        assert_same_noise(ours.normal(shape), torch.randn(shape, generator=theirs))


@given(
    seed=st.integers(0, 2**64 - 1),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=8),
)
def test_any_sequence_of_sizes_equals_torch(seed: int, sizes: list[int]) -> None:
    ours, theirs = TorchNoise(seed), torch_stream(seed)
    for size in sizes:
        assert_same_noise(ours.normal((size,)), torch.randn(size, generator=theirs))


@pytest.mark.parametrize("size", [1, 2, 3, 15])
def test_small_draws_are_bit_for_bit_torchs(size: int) -> None:
    for seed in NAMED_SEEDS:
        theirs = torch.randn(size, generator=torch_stream(seed)).tolist()
        assert TorchNoise(seed).normal((size,)).tolist() == theirs


def test_only_the_low_32_bits_of_a_seed_count() -> None:
    low, high = TorchNoise(5).normal((64,)), TorchNoise(2**32 + 5).normal((64,))
    assert low.tolist() == high.tolist()
    assert low.tolist() != TorchNoise(6).normal((64,)).tolist()


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=5),
)
def test_skipping_leaves_the_stream_where_drawing_does(seed: int, sizes: list[int]) -> None:
    drawn, skipped = TorchNoise(seed), TorchNoise(seed)
    for size in sizes:
        drawn.normal((size,))
        skipped.skip((size,))
    assert drawn.normal((5,)).tolist() == skipped.normal((5,)).tolist()


def test_a_million_values_equal_torchs() -> None:
    ours = TorchNoise(77).normal((1 << 20,))
    assert_same_noise(ours, torch.randn(1 << 20, generator=torch_stream(77)))


def test_a_stream_goes_on_rather_than_repeating() -> None:
    stream = TorchNoise(3)
    assert stream.normal((32,)).tolist() != stream.normal((32,)).tolist()


def test_numpys_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    TorchNoise(9).normal((64,))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_values_are_standard_normal() -> None:
    values = TorchNoise(11).normal((1, 4, 256, 256)).astype(np.float64)
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**64, 2**70])
def test_seeds_outside_64_bits_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=r"seed must be 0\.\.2\*\*64-1"):
        TorchNoise(seed)
