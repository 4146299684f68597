"""Verification finds what is wrong with a component, and its figures are what they say."""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import random_checkpoint
import run_directory
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from lightfill.engine.bundle import Bundle
from lightfill.engine.components import CONTRACTS
from lightfill.engine.errors import ExportError
from lightfill.engine.manifest import Arithmetic, Verification
from lightfill.export.graph import example_inputs
from lightfill.export.part import Part
from lightfill.export.plan import make_plan
from lightfill.export.request import ExportRequest
from lightfill.export.verification import SIZES, verify, with_streamed_weights
from lightfill.export.wrappers import WRAPPERS

ROLES = ("text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder")
MODELS: Mapping[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "unet": UNet2DConditionModel,
    "vae_encoder": AutoencoderKL,
    "vae_decoder": AutoencoderKL,
}
Graphs = dict[Arithmetic, Path]


class Watched:
    """A component's weights that report every read."""

    def __init__(self, part: Part, on_read: Callable[[str], None]) -> None:
        self._weights, self._on_read = part.weights, on_read
        self.origin, self.fingerprint = part.weights.origin, part.weights.fingerprint
        self.shapes = part.weights.shapes

    def read(self, key: str) -> Tensor:
        self._on_read(key)
        return self._weights.read(key)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """With tensors this small, threads do little but wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def parts(bundle: Bundle, request: pytest.FixtureRequest, tmp_path_factory: Any) -> dict[str, Part]:
    """What the bundle's components were made from."""
    demo = random_checkpoint.DEMO_CHECKPOINT
    is_demo = bundle.root == Bundle.open().root
    base = (
        demo
        if is_demo
        else random_checkpoint.checkpoint_in(run_directory.directory_of(tmp_path_factory))
    )
    found = make_plan(ExportRequest(out=Path("unused"), base=base)).parts
    return {part.role: part for part in found}


def graphs_of(bundle: Bundle, role: str) -> Graphs:
    return {kind: bundle.graph(role, kind) for kind in ("float32", "float16")}


def feeds_of(part: Part) -> list[dict[str, Tensor]]:
    module, contract = part.architecture().module, CONTRACTS[part.role]
    return [example_inputs(module, contract, sizes, torch.float32) for sizes in SIZES]


def loaded(folder: Path, role: str) -> nn.Module:
    """The component as diffusers and transformers load it, in float32."""
    path = folder / ("vae" if role.startswith("vae") else role)
    model = MODELS[role].from_pretrained(path, dtype=torch.float32, local_files_only=True)
    module: nn.Module = WRAPPERS[role](model).eval()
    return module


def outputs(module: nn.Module, feed: dict[str, Tensor]) -> list[NDArray[Any]]:
    with torch.no_grad():
        result = module(**feed)
    return [tensor.numpy() for tensor in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("role", ROLES)
def test_sound_components_pass_with_the_figures_of_a_plain_run(
    bundle: Bundle, parts: dict[str, Part], role: str
) -> None:
    part, graphs = parts[role], graphs_of(bundle, role)
    runs: list[None] = []
    found = verify(
        part.architecture(), part.weights, torch.float16, graphs, lambda: runs.append(None)
    )
    assert [each.arithmetic for each in found] == ["float32"] * 2 + ["float16"] * 2
    assert all(each.passed for each in found)
    assert len(runs) == 2 + 4
    varying = {"batch"} if role.startswith("text") else {"batch", "height", "width"}
    assert [each.sizes for each in found[:2]] == [
        {symbol: sizes[symbol] for symbol in varying} for sizes in SIZES
    ]
    for each, listed in zip(found, bundle.component(role).verification or found, strict=True):
        check_figures(each, listed.max_abs_error, listed.psnr_db)


@pytest.mark.parametrize("role", ["text_encoder_2", "vae_encoder"])
def test_figures_are_those_of_a_plain_run(
    bundle: Bundle, parts: dict[str, Part], role: str
) -> None:
    part, graphs = parts[role], graphs_of(bundle, role)
    found = verify(part.architecture(), part.weights, torch.float16, graphs)
    module = with_streamed_weights(part.architecture(), part.weights, torch.float16)
    for feed, *measured in zip(feeds_of(part), found[:2], found[2:], strict=True):
        expected = outputs(module, feed)
        for each in measured:
            check_figures(each, *figures(graphs[each.arithmetic], feed, expected))


def figures(
    path: Path, feed: dict[str, Tensor], expected: list[NDArray[Any]]
) -> tuple[float, float]:
    """Largest error and decibels of a graph as ONNX Runtime's defaults run it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(int64)": np.int64}
    given = {
        each.name: feed[each.name].numpy().astype(kinds[each.type]) for each in session.get_inputs()
    }
    errors, decibels = [], []
    for actual, wanted in zip(session.run(None, given), expected, strict=True):
        error = np.abs(actual.astype(np.float64) - wanted)
        errors.append(float(error.max()))
        decibels.append(10 * math.log10(np.abs(wanted).max() ** 2 / np.mean(error**2)))
    return max(errors), min(decibels)


def check_figures(each: Verification, error: float, decibels: float) -> None:
    """Errors are rounding, which differs with processor and order of sums: to a factor of 2."""
    assert each.psnr_db == pytest.approx(decibels, abs=6)
    assert 0.3 < each.max_abs_error / error < 3


@pytest.mark.parametrize("role", ROLES)
def test_streamed_weights_compute_what_a_loaded_model_does_to_the_bit(
    bundle: Bundle, parts: dict[str, Part], tmp_path_factory: pytest.TempPathFactory, role: str
) -> None:
    demo = random_checkpoint.DEMO_CHECKPOINT
    is_demo = bundle.root == Bundle.open().root
    base = (
        demo
        if is_demo
        else random_checkpoint.checkpoint_in(run_directory.directory_of(tmp_path_factory))
    )
    streamed = with_streamed_weights(parts[role].architecture(), parts[role].weights, torch.float32)
    whole = loaded(base, role)
    feed = feeds_of(parts[role])[0]
    for found, wanted in zip(outputs(streamed, feed), outputs(whole, feed), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("role", ["text_encoder", "unet"])
def test_one_large_layer_s_weights_are_in_memory_at_a_time(
    parts: dict[str, Part], role: str
) -> None:
    reads: Counter[str] = Counter()
    peak = 0

    def on_read(key: str) -> None:
        nonlocal peak
        reads[key] += 1
        peak = max(peak, sum(not each.weight.is_meta for each in large))

    part = parts[role]
    large: list[Any] = []
    module = with_streamed_weights(part.architecture(), Watched(part, on_read), torch.float16)
    large += [each for each in module.modules() if isinstance(each, (nn.Linear, nn.Conv2d))]
    streamed = sum(1 if each.bias is None else 2 for each in large)
    assert reads.total() == len(part.architecture().shapes) - streamed, "norms and embeddings"
    for feed in feeds_of(part):
        outputs(module, feed)
    assert peak == 0, "every other layer's are gone when a layer reads its own"
    assert all(each.weight.is_meta for each in large)
    assert Counter(reads.values()) == {1: reads.total() - 2 * streamed, 2: streamed}


def test_weights_are_rounded_as_they_are_stored(parts: dict[str, Part]) -> None:
    part = parts["text_encoder"]
    weights = Watched(part, lambda key: None)
    weights.read = lambda key: part.weights.read(key).float() * 1.0001  # type: ignore[method-assign]
    feed = feeds_of(part)[0]
    rounded, exact = (
        outputs(with_streamed_weights(part.architecture(), weights, dtype), feed)[0]
        for dtype in (torch.float16, torch.float32)
    )
    module = part.architecture().module.to_empty(device="cpu").float()
    tensors = {name: weights.read(key) for name, key in part.architecture().keys.items()}
    for wanted, found in ((rounded, torch.float16), (exact, torch.float32)):
        module.load_state_dict({name: each.to(found).float() for name, each in tensors.items()})
        np.testing.assert_array_equal(outputs(module, feed)[0], wanted)
    assert not np.array_equal(rounded, exact)


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Graphs:
    """A text encoder's files, to be damaged."""
    component = bundle.component("text_encoder")
    for path in (*component.graphs.values(), component.weights):
        shutil.copy(bundle.root / path, tmp_path)
    return {kind: tmp_path / Path(path).name for kind, path in component.graphs.items()}


def check(parts: dict[str, Part], graphs: Graphs) -> dict[Arithmetic, list[Verification]]:
    part = parts["text_encoder"]
    found = verify(part.architecture(), part.weights, torch.float16, graphs)
    return {kind: [each for each in found if each.arithmetic == kind] for kind in graphs}


def rewrite(graphs: Graphs, change: Callable[[NDArray[np.uint16]], None]) -> None:
    """Change float16 weights where they lie."""
    path = graphs["float32"].parent / "weights.bin"
    numbers = np.fromfile(path, np.uint16)
    change(numbers)
    numbers.tofile(path)


def test_altered_weights_fail_with_the_error_they_make(
    parts: dict[str, Part], copied: Graphs
) -> None:
    def flip_signs(numbers: NDArray[np.uint16]) -> None:
        numbers[:2000] ^= 0x8000

    rewrite(copied, flip_signs)
    module = with_streamed_weights(
        parts["text_encoder"].architecture(), parts["text_encoder"].weights, torch.float16
    )
    for kind, found in check(parts, copied).items():
        for each, feed in zip(found, feeds_of(parts["text_encoder"]), strict=True):
            assert not each.passed
            error, decibels = figures(copied[kind], feed, outputs(module, feed))
            assert each.psnr_db == pytest.approx(decibels, abs=0.1)
            assert each.max_abs_error == pytest.approx(error, rel=0.01)


@pytest.mark.parametrize("bits", [0x7E00, 0x7C00], ids=["NaN", "infinity"])
def test_what_is_not_finite_fails(parts: dict[str, Part], copied: Graphs, bits: int) -> None:
    def spoil(numbers: NDArray[np.uint16]) -> None:
        numbers[100] = bits

    rewrite(copied, spoil)
    for found in check(parts, copied).values():
        assert [(each.passed, each.psnr_db, each.max_abs_error) for each in found] == [
            (False, -999, math.inf)
        ] * 2


def test_a_wrong_constant_fails_in_its_graph_alone(parts: dict[str, Part], copied: Graphs) -> None:
    model = onnx.load(copied["float16"], load_external_data=False)
    for tensor in model.graph.initializer:
        array = None if tensor.external_data else numpy_helper.to_array(tensor)
        if array is not None and array.dtype == np.float16 and array.size == 1:
            tensor.CopyFrom(numpy_helper.from_array(array * np.float16(1.5), tensor.name))
    onnx.save(model, copied["float16"])
    found = check(parts, copied)
    assert all(each.passed for each in found["float32"])
    assert not any(each.passed for each in found["float16"])
    assert all(0 < each.psnr_db < 40 for each in found["float16"])


def test_a_graph_that_does_not_run_is_an_error(parts: dict[str, Part], copied: Graphs) -> None:
    copied["float16"].write_bytes(copied["float16"].read_bytes()[:-100])
    with pytest.raises(ExportError, match=r"(?s)text_encoder: ONNX Runtime .* float16 graph.*repo"):
        check(parts, copied)
