"""What every session promises: feeds are checked in the contract's words, results are finite."""

from collections.abc import Callable

import numpy as np
import pytest

from lightfill.engine.components import UNET, VAE_DECODER, Contract, Tensor
from lightfill.engine.errors import ContractViolation, NonFiniteOutput, SessionError
from lightfill.engine.sessions import Session, TensorSpec
from lightfill.engine.sessions.base import check_contract

FLOAT, WHOLE = np.dtype(np.float32), np.dtype(np.int64)
INPUTS = {
    "picture": TensorSpec(FLOAT, ("batch", 3, "height", "width")),
    "mask": TensorSpec(FLOAT, ("batch", 1, "height", "width")),
    "position": TensorSpec(WHOLE, ("batch",)),
}


class FakeSession(Session):
    """Answers what it was made with; remembers whether it ran and whether it was closed."""

    def __init__(self, answer: dict[str, np.ndarray]) -> None:
        outputs = {name: TensorSpec(array.dtype, array.shape) for name, array in answer.items()}
        super().__init__("painter", "fake", INPUTS, outputs)
        self._answer = answer
        self.ran = self.closed = False

    def _run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.ran = True
        return self._answer

    def close(self) -> None:
        self.closed = True


def good_feed(batch: int = 2, height: int = 4, width: int = 5) -> dict[str, np.ndarray]:
    return {
        "picture": np.zeros((batch, 3, height, width), np.float32),
        "mask": np.zeros((batch, 1, height, width), np.float32),
        "position": np.zeros(batch, np.int64),
    }


def changed(**arrays: np.ndarray) -> dict[str, np.ndarray]:
    return good_feed() | arrays


def without(name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in good_feed().items() if key != name}


WRONG_FEEDS: dict[str, tuple[Callable[[], dict[str, np.ndarray]], str]] = {
    "missing name": (
        lambda: without("mask"),
        "painter takes inputs ['mask', 'picture', 'position'], was given ['picture', 'position']",
    ),
    "extra name": (
        lambda: changed(timestep=np.zeros(1, np.float32)),
        "was given ['mask', 'picture', 'position', 'timestep']",
    ),
    "no names": (dict, "was given []"),
    "dtype": (
        lambda: changed(picture=np.zeros((2, 3, 4, 5))),
        "painter input 'picture' is float32, was given float64",
    ),
    "half precision": (
        lambda: changed(mask=np.zeros((2, 1, 4, 5), np.float16)),
        "painter input 'mask' is float32, was given float16",
    ),
    "int32 for int64": (
        lambda: changed(position=np.zeros(2, np.int32)),
        "painter input 'position' is int64, was given int32",
    ),
    "fixed dimension": (
        lambda: changed(picture=np.zeros((2, 4, 4, 5), np.float32)),
        "painter input 'picture' has shape ('batch', 3, 'height', 'width'), was given (2, 4, 4, 5)",
    ),
    "rank": (
        lambda: changed(picture=np.zeros((3, 4, 5), np.float32)),
        "was given (3, 4, 5)",
    ),
    "two sizes for one symbol": (
        lambda: changed(mask=np.zeros((2, 1, 4, 6), np.float32)),
        "painter input 'mask' has shape ('batch', 1, 'height', 'width'), was given (2, 1, 4, 6)",
    ),
    "two batches": (lambda: changed(position=np.zeros(1, np.int64)), "was given (1,)"),
}


@pytest.mark.parametrize("kind", WRONG_FEEDS)
def test_wrong_feed_is_refused_before_the_runtime_sees_it(kind: str) -> None:
    make, words = WRONG_FEEDS[kind]
    session = FakeSession({"out": np.zeros(1, np.float32)})
    with pytest.raises(ContractViolation) as caught:
        session.run(make())
    assert words in str(caught.value)
    assert not session.ran


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 4, 5), (7, 3, 300)])
def test_varying_dimensions_take_any_size(sizes: tuple[int, int, int]) -> None:
    answer = {"out": np.ones(3, np.float32)}
    assert FakeSession(answer).run(good_feed(*sizes)) is answer


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("place", [0, 77, -1])
def test_one_value_that_is_not_finite_is_an_error(value: float, dtype: type, place: int) -> None:
    array = np.zeros(100, dtype)
    array[place] = value
    session = FakeSession({"good": np.ones(3, np.float32), "bad": array.reshape(10, 10)})
    with pytest.raises(NonFiniteOutput, match=r"painter produced NaN or infinity in 'bad' on fake"):
        session.run(good_feed())


def test_non_finite_output_is_a_session_error_that_says_what_to_do() -> None:
    session = FakeSession({"bad": np.full(1, np.nan, np.float32)})
    with pytest.raises(SessionError, match=r"; check the weights .* or run with --device cpu"):
        session.run(good_feed())


@pytest.mark.parametrize(
    "array", [np.zeros((0, 3), np.float32), np.arange(5), np.full(3, np.finfo(np.float32).max)]
)
def test_whole_numbers_empty_and_extreme_outputs_are_fine(array: np.ndarray) -> None:
    assert FakeSession({"out": array}).run(good_feed())["out"] is array


def test_leaving_the_context_closes() -> None:
    with FakeSession({"out": np.zeros(1)}) as session:
        assert not session.closed
    assert session.closed


def test_leaving_the_context_by_an_error_closes_too() -> None:
    session = FakeSession({"out": np.zeros(1)})
    with pytest.raises(RuntimeError, match=r"mine"), session:
        raise RuntimeError("mine")
    assert session.closed


def specs(contract: dict[str, Tensor]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(FLOAT, ("x",) * len(t.shape)) for name, t in contract.items()}


@pytest.mark.parametrize("contract", [UNET, VAE_DECODER])
def test_graph_with_the_contracts_names_and_ranks_passes(contract: Contract) -> None:
    check_contract("unet", contract, specs(contract.inputs), specs(contract.outputs))


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize("change", ["missing", "extra", "rank"])
def test_graph_of_another_shape_is_refused(side: str, change: str) -> None:
    tensors = {"inputs": specs(UNET.inputs), "outputs": specs(UNET.outputs)}
    name = next(iter(tensors[side]))
    if change == "missing":
        del tensors[side][name]
    elif change == "extra":
        tensors[side]["surprise"] = TensorSpec(FLOAT, (1,))
    else:
        tensors[side][name] = TensorSpec(FLOAT, ("x",))
    with pytest.raises(ContractViolation, match=f"unet has {side} .*; export the bundle again"):
        check_contract("unet", UNET, tensors["inputs"], tensors["outputs"])
