"""Every name our code uses on TensorRT and CUDA is one that the real modules have.

TensorRT's names must be common to tensorrt 10.13, 10.16 and 11.4 and tensorrt_rtx 1.7
(tests/support/tensorrt-common-api.json), or be on the list below, behind a `hasattr`. The wheels
ship no type information (no py.typed, and no stubs): `make check` has mypy hold our calls against
tests/support/stubs, and the tests here hold those against the real wheel.
"""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from simulated_gpu import Bench, feed_of
from simulated_gpu import tensorrt as simulated
from simulated_gpu.cuda import Cuda
from simulated_gpu.machine import Machine
from tensorrt_names import BUILDS, ROOT, RUNS, SIMULATED, overridden, used_of_tensorrt

from lightfill.engine.engine_key import installed_version
from lightfill.engine.errors import EngineStale, LightfillError, SessionError
from lightfill.engine.gpus import Gpu
from lightfill.engine.sessions.tensorrt_library import TensorRt
from lightfill.export import engine_network

SUPPORT = Path(__file__).parents[2] / "support"
COMMON: dict[str, list[str]] = json.loads((SUPPORT / "tensorrt-common-api.json").read_text("utf-8"))
RTX_ONLY = {
    "get_engine_validity": {
        ("Runtime", "get_engine_validity"),
        ("EngineValidity", "INVALID"),
        ("EngineInvalidityDiagnostics", "__members__"),
    },
    "cuda_graph_strategy": {
        ("IRuntimeConfig", "cuda_graph_strategy"),
        ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"),
    },
    "create_runtime_cache": {
        ("IRuntimeConfig", "create_runtime_cache"),
        ("IRuntimeConfig", "set_runtime_cache"),
        ("IRuntimeCache", "deserialize"),
        ("IRuntimeCache", "serialize"),
    },
    "ComputeCapability": {("ComputeCapability", "__members__")},
}
"""What only TensorRT-RTX has, by the name that `hasattr` asks for."""


def is_common(owner: str, member: str) -> bool:
    return member in COMMON if owner == "module" else member in COMMON.get(owner, ())


def test_every_tensorrt_name_of_what_runs_is_common_or_asked_for() -> None:
    used = used_of_tensorrt(*RUNS) | overridden(RUNS[0], "ILogger")
    guarded = set().union(*RTX_ONLY.values())
    extra = {pair for pair in used if not is_common(*pair)}
    types = {("module", owner) for owner, _ in guarded if owner not in COMMON}
    assert extra == guarded | types
    assert len(used) > 25  # the walk still sees what there is


def test_every_tensorrt_name_of_what_builds_is_common() -> None:
    monitor = overridden(BUILDS[0], "IProgressMonitor")
    assert {name for _, name in monitor} == {"phase_start", "step_complete", "phase_finish"}
    used = used_of_tensorrt(*BUILDS) | monitor
    assert {pair for pair in used if not is_common(*pair)} == set()
    assert {
        ("BuilderFlag", "TF32"), ("IBuilderConfig", "clear_flag"), ("ILayer", "get_output"),
        ("INetworkDefinition", "num_layers"), ("ITensor", "shape"), ("MemoryPoolType", "WORKSPACE"),
        ("ProfilingVerbosity", "DETAILED"),
    } <= used  # fmt: skip


def test_kinds_and_types_of_layers_are_tensorrts_own_names() -> None:
    """A name that was misspelt would let float32 pass in silence."""
    assert set(COMMON["LayerType"]) >= engine_network._MATRICES
    assert set(COMMON["DataType"]) >= engine_network._FLOATS
    assert set(COMMON["DataType"]) >= set(engine_network._ELEMENTS.values())
    trt = pytest.importorskip("tensorrt_rtx")
    attention = [name for name in trt.LayerType.__members__ if "ATTENTION" in name]
    assert attention
    assert all(name.startswith(engine_network._ATTENTION) for name in attention)


def test_every_name_that_only_rtx_has_stands_behind_a_hasattr() -> None:
    asked = {
        node.args[1].value
        for node in ast.walk(ast.parse((ROOT / RUNS[0]).read_text("utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "hasattr"
        and isinstance(node.args[1], ast.Constant)
    }
    assert asked == set(RTX_ONLY)


def test_the_real_wheel_has_every_name() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for owner, member in used_of_tensorrt(*RUNS, *BUILDS):
        place = trt if owner == "module" else getattr(trt, owner)
        assert hasattr(place, member), (owner, member)


def test_what_runs_touches_what_was_read_in_the_source(
    bench: Bench,
) -> None:
    """The list above misses no expression: whatever is touched at run time is in it."""
    bench.build("unet")
    with bench.open() as session:
        for seed in range(3):
            session.run(feed_of("unet", seed=seed))
    with bench.open() as session:
        session.run(feed_of("unet"))
    bench.build("vae_decoder", content=b"no plan")
    with pytest.raises(SessionError):
        bench.open("vae_decoder").run(feed_of("vae_decoder"))
    package = "tensorrt_rtx" if bench.flavour == "rtx" else "tensorrt"
    names = {**SIMULATED, package: "module"}
    touched = {
        (names.get(owner, owner), name)
        for owner, name in bench.machine.touched
        if owner != "cuda.bindings.runtime"
    }
    assert touched <= used_of_tensorrt(*RUNS)
    if bench.flavour == "tensorrt":
        assert all(is_common(*pair) for pair in touched)


def cuda_names() -> set[str]:
    """Every name of the CUDA runtime in our module, those called by name included."""
    tree = ast.parse((ROOT / "engine/sessions/cuda_device.py").read_text("utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {name for name in names if isinstance(name, str) and re.fullmatch("cuda[A-Z]\\w+", name)}


def test_the_real_cuda_bindings_have_every_name() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    enums = (runtime.cudaError_t, runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode)
    used = cuda_names()
    assert {"cudaMalloc", "cudaGraphLaunch", "cudaErrorMemoryAllocation", "cudaError_t"} <= used
    for name in used:
        assert any(hasattr(place, name) for place in (runtime, *enums)), name
    properties = runtime.cudaDeviceProp()
    assert [type(value) for value in (properties.name, properties.major, properties.minor)] == [
        bytes, int, int,
    ]  # fmt: skip


def test_the_simulated_cuda_takes_what_the_real_one_takes() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for name, function in vars(Cuda).items():
        if name.startswith("cuda") and inspect.isfunction(function):
            signature = (inspect.getdoc(getattr(runtime, name)) or "").splitlines()[0]
            real = [
                each for each in signature.partition("(")[2].rpartition(")")[0].split(",") if each
            ]
            assert len(real) == len(inspect.signature(function).parameters) - 1, signature


def test_the_real_cuda_bindings_answer_with_a_status_first() -> None:
    """Without a driver the answer is an error, and has the shape our code unpacks."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    status, count = runtime.cudaGetDeviceCount()
    if status == runtime.cudaError_t.cudaSuccess:
        assert count > 0
        return
    assert len(runtime.cudaSetDevice(0)) == 1
    assert len(runtime.cudaMalloc(1)) == 2
    assert runtime.cudaFree(256) == runtime.cudaFreeHost(256) == (status,)
    stream, graph = runtime.cudaStream_t(0), runtime.cudaGraphExec_t(0)
    kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
    assert runtime.cudaMemcpyAsync(256, 256, 1, kind, stream) == (status,)
    assert runtime.cudaGraphLaunch(graph, stream) == (status,)
    assert len(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)) == 2
    assert len(runtime.cudaStreamEndCapture(stream)) == 2
    assert isinstance(runtime.cudaGetErrorString(status)[1], bytes)


def test_the_simulated_tensorrt_has_nothing_the_real_one_lacks() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    machine = Machine()
    names = simulated.TensorRtNames(machine, rtx=True)
    kinds: dict[str, Any] = {
        name: getattr(names, name)
        for name in (*vars(simulated.TensorRtNames), *vars(names))
        if not name.startswith("_")
    }
    kinds |= {
        "Runtime": simulated.RtxRuntime,
        "ICudaEngine": simulated.ICudaEngine,
        "IRuntimeConfig": simulated.RtxRuntimeConfig,
        "IExecutionContext": simulated.IExecutionContext,
        "IRuntimeCache": simulated.IRuntimeCache,
    }
    for name, kind in kinds.items():
        real = getattr(trt, name)
        public = (
            {each for each in dir(kind) if not each.startswith("_")}
            if inspect.isclass(kind)
            else set()
        )
        public -= set(dir(int))
        assert public <= set(dir(real)), (name, public - set(dir(real)))


def test_the_simulation_lacks_what_only_rtx_has_where_tensorrt_lacks_it() -> None:
    names = simulated.TensorRtNames(Machine(), rtx=False)
    for guard in RTX_ONLY:
        for place in (names, simulated.Runtime, simulated.IRuntimeConfig):
            assert not hasattr(place, guard)


def test_the_real_rtx_runtime_refuses_what_is_no_plan() -> None:
    """Our logger, header check and message, with the real library; it needs no GPU for that."""
    pytest.importorskip("tensorrt_rtx")
    library = TensorRt("rtx", Gpu(target="sm89", name="no GPU"))
    with pytest.raises(EngineStale, match=r"refuses the engine of unet here \(MALFORMED_ENGINE\)"):
        library.deserialised(memoryview(b"junk" * 100), "unet")


def test_the_real_rtx_runtime_says_why_it_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    library = TensorRt("rtx", Gpu(target="sm89", name="no GPU"))
    monkeypatch.setattr(TensorRt, "_check_validity", lambda *_: None)
    with pytest.raises(
        LightfillError, match=r"^TensorRT failed while loading unet: .*Serialization"
    ):
        library.deserialised(memoryview(b"junk" * 100), "unet")


def test_library_and_package_agree_on_the_version() -> None:
    """Engines are recorded with the package's version and looked for with the library's."""
    trt = pytest.importorskip("tensorrt_rtx")
    assert importlib.import_module("tensorrt_rtx").__version__ == trt.__version__
    assert trt.__version__ == installed_version("rtx")
