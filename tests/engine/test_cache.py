"""The byte-bounded cache: what it remembers, what it forgets first, and under threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightfill.engine.cache import ByteBoundedCache


class Computed:
    """A source of arrays that counts how often each was asked to be made."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def make(self, key: str, nbytes: int) -> np.ndarray:
        self.calls.append(key)
        return np.zeros(nbytes, np.uint8)


def remember(cache: ByteBoundedCache[np.ndarray], computed: Computed, key: str, size: int) -> None:
    cache.get_or_compute(key, lambda: computed.make(key, size))


def test_second_time_the_same_value_comes_back_uncomputed() -> None:
    cache, computed = ByteBoundedCache[np.ndarray](100), Computed()
    first = cache.get_or_compute("a", lambda: computed.make("a", 10))
    second = cache.get_or_compute("a", lambda: computed.make("a", 10))
    assert first is second
    assert computed.calls == ["a"]
    assert cache.nbytes == 10


def test_least_recently_used_goes_first() -> None:
    cache, computed = ByteBoundedCache[np.ndarray](30), Computed()
    for key in "abcad":  # using a again makes b the oldest when d needs room
        remember(cache, computed, key, 10)
    assert computed.calls == ["a", "b", "c", "d"]
    for key in "acd":
        remember(cache, computed, key, 10)
    assert computed.calls == ["a", "b", "c", "d"]
    remember(cache, computed, "b", 10)
    assert computed.calls == ["a", "b", "c", "d", "b"]


def test_value_larger_than_the_limit_is_given_but_not_kept() -> None:
    cache, computed = ByteBoundedCache[np.ndarray](20), Computed()
    remember(cache, computed, "small", 15)
    remember(cache, computed, "large", 21)
    remember(cache, computed, "large", 21)
    remember(cache, computed, "small", 15)
    assert computed.calls == ["small", "large", "large"]
    assert cache.nbytes == 15


def test_limit_of_zero_remembers_nothing() -> None:
    cache, computed = ByteBoundedCache[np.ndarray](0), Computed()
    remember(cache, computed, "a", 1)
    remember(cache, computed, "a", 1)
    assert computed.calls == ["a", "a"]
    assert cache.nbytes == 0


def test_clear_forgets_everything() -> None:
    cache, computed = ByteBoundedCache[np.ndarray](100), Computed()
    remember(cache, computed, "a", 10)
    cache.clear()
    assert cache.nbytes == 0
    remember(cache, computed, "a", 10)
    assert computed.calls == ["a", "a"]


def test_failure_is_passed_on_and_not_kept() -> None:
    cache, computed = ByteBoundedCache[np.ndarray](100), Computed()

    def fail() -> np.ndarray:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.get_or_compute("a", fail)
    remember(cache, computed, "a", 10)
    assert computed.calls == ["a"]


@given(
    limit=st.integers(0, 50),
    requests=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60)), max_size=60),
)
def test_bytes_are_bounded_and_counted(limit: int, requests: list[tuple[str, int]]) -> None:
    """Sizes belong to keys, as content keys do."""
    size_of = dict(requests)
    cache, computed = ByteBoundedCache[np.ndarray](limit), Computed()
    for key, _ in requests:
        value = cache.get_or_compute(key, lambda key=key: computed.make(key, size_of[key]))
        assert value.nbytes == size_of[key]
        assert cache.nbytes <= limit


def test_many_threads_agree_and_keep_within_the_limit() -> None:
    cache = ByteBoundedCache[np.ndarray](200)

    def ask(number: int) -> bool:
        key = number % 37
        value = cache.get_or_compute(key, lambda: np.full(10, key, np.uint8))
        return bool((value == key).all()) and cache.nbytes <= 200

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(4000)))
