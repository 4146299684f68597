"""Every checkpoint tensor is stored once, bit by bit, for both graphs of a component."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny_components
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from safetensors import safe_open
from torch import Tensor

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import ExportError
from lightfill.engine.manifest import Arithmetic
from lightfill.export.graph_cleaning import TRANSPOSED
from lightfill.export.weights_file import WEIGHTS_NAME, write_component

ROLES = ("text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder")
RNG = np.random.default_rng(5)
TYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}
STORED = {TensorProto.FLOAT: np.dtype(np.float32), TensorProto.FLOAT16: np.dtype(np.float16)}


class Tensors(dict[str, Tensor]):
    """Weights in memory that count how often each is read."""

    origin, fingerprint = "some/checkpoint", "0" * 64

    def __init__(self, **arrays: NDArray[Any]) -> None:
        super().__init__({key: torch.from_numpy(array) for key, array in arrays.items()})
        self.reads: list[str] = []

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {key: tuple(tensor.shape) for key, tensor in self.items()}

    def read(self, key: str) -> Tensor:
        self.reads.append(key)
        return self[key]


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float16).astype(np.float32)


def graph(
    weights: Tensors, arithmetic: Arithmetic, transposed: Mapping[str, str] | None = None
) -> ir.Model:
    """x in, the sum of x and every weight's first entry out: each a graph input, as traced."""
    kind = TYPES[arithmetic]
    x = ir.val("x", kind, [1])
    total, nodes, inputs = x, [], [x]
    start = ir.val("start", const_value=ir.tensor([0], name="start"))
    one = ir.val("one", const_value=ir.tensor([1], name="one"))
    minus = ir.val("minus", const_value=ir.tensor([-1], name="minus"))
    for key, tensor in weights.items():
        axes = (transposed or {}).get(key, "")
        permutation = [int(axis) for axis in axes.split(",")] if axes else range(tensor.ndim)
        value = ir.val(key, kind, [tensor.shape[axis] for axis in permutation])
        if axes:
            value.metadata_props[TRANSPOSED] = axes
        inputs.append(value)
        flat = ir.node("Reshape", [value, minus])
        first = ir.node("Slice", [flat.outputs[0], start, one])
        plus = ir.node("Add", [total, first.outputs[0]])
        total = plus.outputs[0]
        nodes += [flat, first, plus]
    total.name, total.type, total.shape = "y", ir.TensorType(kind), ir.Shape([1])
    made = ir.Graph(inputs, [total], nodes=nodes, initializers=[start, one, minus],
                    opset_imports={"": 20}, name="sum")  # fmt: skip
    return ir.Model(made, ir_version=10)


def write(
    directory: Path,
    weights: Tensors,
    dtype: torch.dtype = torch.float16,
    transposed: Mapping[str, str] | None = None,
    arithmetics: tuple[Arithmetic, ...] = ("float32", "float16"),
) -> list[int]:
    """The component's files; what `on_bytes` was told."""
    told: list[int] = []
    graphs = {kind: graph(weights, kind, transposed) for kind in arithmetics}
    write_component(graphs, 1, weights, dtype, directory, told.append)
    return told


def initializers(path: Path) -> Mapping[str, TensorProto]:
    model = onnx.load(path, load_external_data=False)
    return {tensor.name: tensor for tensor in model.graph.initializer}


def place(tensor: TensorProto) -> tuple[int, int]:
    """Offset and length in the weights file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    assert entries["location"] == WEIGHTS_NAME
    return int(entries["offset"]), int(entries["length"])


def content(directory: Path, tensor: TensorProto) -> NDArray[Any]:
    if not tensor.external_data:
        return numpy_helper.to_array(tensor)
    offset, length = place(tensor)
    data = (directory / WEIGHTS_NAME).read_bytes()[offset : offset + length]
    return np.frombuffer(data, STORED[tensor.data_type]).reshape(tuple(tensor.dims))


def test_bytes_are_the_checkpoint_s_and_transposed_where_declared(tmp_path: Path) -> None:
    weights = Tensors(plain=normal(30, 20), turned=normal(30, 20), kernel=normal(8, 6, 3, 3))
    write(tmp_path, weights, transposed={"turned": "1,0", "kernel": "2,3,1,0"})
    found = initializers(tmp_path / "float16.onnx")
    for key, permutation in (("plain", (0, 1)), ("turned", (1, 0)), ("kernel", (2, 3, 1, 0))):
        wanted = weights[key].numpy().astype(np.float16).transpose(permutation)
        np.testing.assert_array_equal(content(tmp_path, found[key]), wanted)


def test_a_tensor_two_graphs_want_differently_is_stored_both_ways(tmp_path: Path) -> None:
    weights = Tensors(w=normal(30, 20))
    graphs: dict[Arithmetic, ir.Model] = {
        "float32": graph(weights, "float32"),
        "float16": graph(weights, "float16", {"w": "1,0"}),
    }
    write_component(graphs, 1, weights, torch.float16, tmp_path, lambda _: None)
    for arithmetic, turned in (("float32", False), ("float16", True)):
        stored = content(tmp_path, initializers(tmp_path / f"{arithmetic}.onnx")["w"])
        wanted = weights["w"].numpy().astype(np.float16)
        np.testing.assert_array_equal(stored, wanted.T if turned else wanted)
    assert weights.reads == ["w"]


def test_both_graphs_read_one_copy_which_is_read_once(tmp_path: Path) -> None:
    weights = Tensors(a=normal(40, 40), b=normal(40, 41), small=normal(12))
    write(tmp_path, weights)
    float32, float16 = (initializers(tmp_path / f"{kind}.onnx") for kind in TYPES)
    for key in ("a", "b"):
        assert float32[key].data_type == float16[key].data_type == TensorProto.FLOAT16
        assert place(float32[key]) == place(float16[key])
    assert weights.reads == ["a", "b", "small"]
    assert (tmp_path / WEIGHTS_NAME).stat().st_size == 2 * 40 * (40 + 41)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 2), (torch.float32, 4)])
def test_told_bytes_are_all_parameters_s(tmp_path: Path, dtype: torch.dtype, size: int) -> None:
    weights = Tensors(a=normal(40, 40), small=normal(12), scalar=normal())
    told = write(tmp_path, weights, dtype, {"a": "1,0"}, arithmetics=("float32",))
    assert told == [size * 1600, size * 12, size]


def test_small_tensors_stay_in_the_graph_in_its_own_type(tmp_path: Path) -> None:
    weights = Tensors(inside=normal(255), outside=normal(256), turned=normal(3, 2))
    write(tmp_path, weights, transposed={"turned": "1,0"})
    for arithmetic, kind in (("float32", np.float32), ("float16", np.float16)):
        found = initializers(tmp_path / f"{arithmetic}.onnx")
        assert {key for key in weights if found[key].external_data} == {"outside"}
        for key in ("inside", "turned"):
            stored = numpy_helper.to_array(found[key])
            assert stored.dtype == kind
            np.testing.assert_array_equal(stored, weights[key].numpy().T)
    assert (tmp_path / WEIGHTS_NAME).stat().st_size == 512


def test_offsets_are_aligned_to_64_bytes_and_large_tensors_to_pages(tmp_path: Path) -> None:
    weights = Tensors(odd=normal(257), w=normal(300), page=normal(512, 1024), last=normal(999))
    write(tmp_path, weights)
    found = initializers(tmp_path / "float16.onnx")
    assert [place(found[key])[0] for key in ("odd", "w")] == [0, 576]  # 514 bytes, up to 64s
    page, length = place(found["page"])
    assert (page % 4096, length) == (0, 1 << 20)
    assert place(found["last"])[0] == page + length


def test_extremes_and_subnormals_of_float16_are_kept(tmp_path: Path) -> None:
    array = normal(24, 24)
    array[0, :8] = [0, -0.0, 65504, -65504, 2.0**-24, -(2.0**-24), 2.0**-14, 3 * 2.0**-24]
    write(tmp_path, Tensors(w=array))
    stored = content(tmp_path, initializers(tmp_path / "float16.onnx")["w"])
    assert stored.tobytes() == array.astype(np.float16).tobytes()
    np.testing.assert_array_equal(stored.astype(np.float32), array)
    assert np.signbit(stored[0, 1])


@pytest.mark.parametrize("value", [65520.0, -70000.0, 1e30])  # 65520 rounds to infinity
@pytest.mark.parametrize("shape", [(4,), (30, 30)])
def test_a_value_beyond_float16_is_an_error_that_names_it(
    tmp_path: Path, value: float, shape: tuple[int, ...]
) -> None:
    weights = Tensors(fine=normal(30, 30), guilty=normal(*shape))
    weights["guilty"][0] = value
    with pytest.raises(ExportError, match=r"some/checkpoint: guilty .* float16; .*--dtype fp32"):
        write(tmp_path, weights)
    write(tmp_path, weights, torch.float32, arithmetics=("float32",))
    kept = content(tmp_path, initializers(tmp_path / "float32.onnx")["guilty"])
    np.testing.assert_array_equal(kept, weights["guilty"].numpy())


def test_float32_storage_keeps_every_bit_and_needs_no_cast(tmp_path: Path) -> None:
    weights = Tensors(w=RNG.normal(size=(30, 30)).astype(np.float32), b=normal(7) / 3)
    write(tmp_path, weights, torch.float32, arithmetics=("float32",))
    path = tmp_path / "float32.onnx"
    for key, tensor in weights.items():
        np.testing.assert_array_equal(content(tmp_path, initializers(path)[key]), tensor.numpy())
    assert not any(node.op_type == "Cast" for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("checkpoint", [torch.bfloat16, torch.float16, torch.float64])
def test_any_checkpoint_type_becomes_the_stored_one(
    tmp_path: Path, checkpoint: torch.dtype
) -> None:
    weights = Tensors(w=normal(30, 30))
    weights["w"] = weights["w"].to(checkpoint)
    write(tmp_path, weights)
    stored = content(tmp_path, initializers(tmp_path / "float32.onnx")["w"])
    np.testing.assert_array_equal(stored, weights["w"].to(torch.float16).numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_was_written_runs(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = Tensors(a=normal(40, 40), b=normal(600), turned=normal(40, 30), c=normal(4))
    kinds: tuple[Arithmetic, ...] = (
        ("float32",) if dtype == torch.float32 else ("float32", "float16")
    )
    write(tmp_path, weights, dtype, {"turned": "1,0"}, kinds)
    wanted = 1 + sum(float(tensor.flatten()[0]) for tensor in weights.values())
    for kind in kinds:
        session = onnxruntime.InferenceSession(
            tmp_path / f"{kind}.onnx", providers=["CPUExecutionProvider"]
        )
        assert [given.name for given in session.get_inputs()] == ["x"]
        (found,) = session.run(None, {"x": np.ones(1, kind)})
        np.testing.assert_allclose(found, [wanted], rtol=2e-6 if kind == "float32" else 3e-3)


@pytest.mark.parametrize("role", ROLES)
def test_a_bundle_keeps_two_bytes_a_parameter_for_both_arithmetics(
    bundle: Bundle, role: str
) -> None:
    component = bundle.component(role)
    places = set()
    numbers = 0
    for graph_path in component.graphs.values():
        found = initializers(bundle.root / graph_path).values()
        places |= {place(tensor) for tensor in found if tensor.external_data}
        numbers = max(numbers, sum(int(np.prod(tensor.dims)) for tensor in found))
    size = (bundle.root / component.weights).stat().st_size
    assert sum(length for _, length in places) <= size
    causal_masks = 77 * 77 * (2 + 4) if role.startswith("text_encoder") else 0
    assert size <= 2 * numbers + 64 * len(places) + causal_masks


# slow: the random bundle's export takes more than a minute, once a test run
@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_an_exported_component_holds_its_checkpoint_s_numbers(
    random_bundle: Path, random_folder: Path, role: str
) -> None:
    architecture = tiny_components.architecture_of(role)
    folder = "vae" if role.startswith("vae") else role
    (path,) = (random_folder / folder).glob("*.safetensors")
    found = initializers(random_bundle / role / "float16.onnx")
    turned = 0
    with safe_open(path, "np") as file:
        for key, shape in architecture.shapes.items():
            name = key.removeprefix("text_model.") if role == "text_encoder" else key
            stored, wanted = content(random_bundle / role, found[key]), file.get_tensor(name)
            if stored.shape != shape or not np.array_equal(stored, wanted):
                stored = stored.T if stored.ndim == 2 else stored.reshape(shape)
                turned += 1
            assert stored.tobytes() == wanted.tobytes(), key
    assert turned > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_damaged_value_is_an_error_of_its_own(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    weights = Tensors(fine=normal(30, 30), guilty=normal(30, 30))
    weights["guilty"][3] = value
    with pytest.raises(ExportError, match=r"guilty holds NaN or infinity; copy the checkpoint"):
        write(tmp_path, weights, dtype, arithmetics=("float32",))
