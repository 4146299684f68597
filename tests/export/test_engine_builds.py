"""Real builds with TensorRT-RTX, of the embedded bundle's components: no GPU is needed for that."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pytest
from engine_bundles import VERSION, copied_demo, request_of

from lightfill.engine.bundle import Bundle
from lightfill.engine.engine_key import EngineKey, sizes_for
from lightfill.engine.engine_record import EngineRecord
from lightfill.engine.engine_store import EngineStore
from lightfill.engine.gpus import RTX_TARGETS
from lightfill.engine.request import IMAGE_SIZES
from lightfill.export.engine_order import Order
from lightfill.export.engine_process import Builders
from lightfill.export.engines import build_engines

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytest.importorskip("polygraphy", reason="polygraphy is not installed")

CLI = [sys.executable, "-c", "from lightfill.engine.cli import main; main()"]
QUICK = "text_encoder"  # a second, most of it Python's start; one output: the same plan each time
COMMON_API = Path(__file__).parents[1] / "support" / "tensorrt-common-api.json"
EXPORT_ONLY = ("torch", "diffusers", "transformers", "onnxscript", "onnx_ir")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return copied_demo(tmp_path)


def order_of(bundle: Bundle, component: str, plan: Path, **changes: Any) -> Order:
    part = bundle.component(component)
    files = bundle.manifest.files
    graph = changes.pop("graph", bundle.graph(component, "float16"))
    fields: dict[str, Any] = {
        "component": component, "graph_sha256": files[part.graphs["float16"]].sha256,
        "weights_sha256": files[part.weights].sha256, "flavour": "rtx", "version": VERSION,
        "targets": ("sm89",), "sizes": sizes_for(part.role, 64, 64),
    }  # fmt: skip
    key = EngineKey(**fields | changes)
    return Order(key=key, role=part.role, graph=graph, plan=plan)


def command(bundle: Bundle, *arguments: object, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*CLI, "build", str(bundle.root), "--gpu", "sm89", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def remainders(bundle: Bundle) -> list[Path]:
    return list((bundle.root / "engines").rglob("*"))


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded bundle with every component built for every preset, for sm89."""
    bundle = copied_demo(tmp_path_factory.mktemp("presets"))
    ran = subprocess.run(
        [*CLI, "build", bundle.root, "--all-sizes", "--gpu", "sm89", "--jobs", "2"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return bundle


@pytest.mark.slow  # twenty engines, one to three seconds each
def test_all_presets_are_built_for_a_gpu_that_is_not_here(presets: Bundle) -> None:
    store = EngineStore.of(presets)
    sizes: dict[str, set[Any]] = {}
    for engine in store.listed():
        assert engine.problem is None
        assert engine.record is not None
        key, record = engine.record.key, engine.record
        assert key.targets == ("sm89",)
        assert len(store.read(engine)) == record.bytes
        assert record.activation_bytes > 1 << 20
        assert 100 << 20 < record.peak_bytes < 4 << 30
        assert record.seconds > 0.1
        if key.component != "text_encoder":
            assert record.layers["MATRIX_MULTIPLY"].keys() == {"HALF"}
        sizes.setdefault(key.component, set()).add(key.pixels)
    every = set(IMAGE_SIZES.values())
    assert sizes == {
        "text_encoder": {None}, "text_encoder_2": {None},
        "vae_encoder": every, "vae_decoder": every, "unet": every,
    }  # fmt: skip
    unet = next(each.record for each in store.listed() if each.plan.name.startswith("unet"))
    assert unet is not None
    assert unet.layers["CONVOLUTION"].keys() == {"HALF"}
    assert unet.layers["UNARY"] == {"FLOAT": 4}  # sine and cosine of timestep and sizes


@pytest.mark.slow
def test_engines_larger_in_pixels_take_more_memory_to_run(presets: Bundle) -> None:
    taken = {
        engine.record.key.pixels: engine.record.activation_bytes
        for engine in EngineStore.of(presets).listed()
        if engine.record and engine.record.key.component == "vae_decoder"
    }
    assert taken[512, 512] < taken[576, 1024] < taken[768, 1024] < taken[1024, 1024]


@pytest.mark.slow
def test_what_is_built_is_found_in_milliseconds_by_a_process_without_any_builder(
    presets: Bundle,
) -> None:
    code = """
    import json, sys, time
    from lightfill.engine.bundle import Bundle
    from lightfill.engine.request import IMAGE_SIZES
    from lightfill.export.engines import BuildRequest, build_engines
    bundle, times = Bundle.open(sys.argv[1]), []
    for _ in range(9):
        start = time.perf_counter()
        request = BuildRequest(bundle=bundle, flavour="rtx", version=sys.argv[2],
                               targets=("sm89",), sizes=list(IMAGE_SIZES.values()))
        made = [report.made for report in build_engines(request)]
        times.append(time.perf_counter() - start)
    assert made == [False] * 20, made
    print(json.dumps([times, sorted({name.partition(".")[0] for name in sys.modules})]))
    """
    ran = subprocess.run(
        [sys.executable, "-c", re.sub("^    ", "", code, flags=re.M), presets.root, VERSION],
        check=True,
        capture_output=True,
        text=True,
    )
    times, loaded = json.loads(ran.stdout)
    print(f"20 engines found built in {1000 * median(times):.1f} ms")
    assert median(times) < 0.25
    builders = {"onnx", "polygraphy", "tensorrt", "tensorrt_rtx", "filelock", *EXPORT_ONLY}
    assert builders.isdisjoint(loaded)


@pytest.mark.slow
def test_a_second_build_says_that_all_was_there(presets: Bundle) -> None:
    ran, start = command(presets, "--all-sizes"), time.perf_counter()
    _, said = ran.communicate()
    assert ran.returncode == 0, said
    assert said.count("was there") == 20
    assert time.perf_counter() - start < 60  # building them takes longer on one core


UNREPEATED = {"sha256", "seconds", "peak_bytes", "made"}


def built_twice(bundle: Bundle, component: str) -> tuple[list[EngineRecord], list[np.ndarray]]:
    wanted = request_of(bundle, components=[component])
    records, plans = [], []
    for _ in range(2):
        shutil.rmtree(wanted.store.root, ignore_errors=True)
        (report,) = build_engines(wanted)
        assert report.made
        records.append(report.record)
        plans.append(np.fromfile(report.engine.plan, np.uint8))
    assert records[0].model_dump(exclude=UNREPEATED) == records[1].model_dump(exclude=UNREPEATED)
    return records, plans


def test_the_same_engine_built_twice_is_the_same(bundle: Bundle) -> None:
    """So what a key says is all that a plan depends on."""
    (record, _), (first, second) = built_twice(bundle, QUICK)
    assert np.array_equal(first, second)
    assert record.made_with["polygraphy"]
    assert record.layers["NORMALIZATION"].keys() == {"HALF"}


def test_an_engine_with_two_outputs_built_twice_differs_in_their_order_at_most(
    bundle: Bundle,
) -> None:
    """TensorRT-RTX lists the outputs of a plan in the order of their addresses while it builds."""
    (record, _), (first, second) = built_twice(bundle, "text_encoder_2")
    assert np.array_equal(np.bincount(first, minlength=256), np.bincount(second, minlength=256))
    different = np.flatnonzero(first != second)
    if len(different):
        listed = [
            plan[different[0] - 64 : different[-1] + 65].tobytes() for plan in (first, second)
        ]
        assert all(len(part) < 1000 for part in listed)
        for name in (b"hidden_states", b"text_embeds"):
            assert [part.count(name) for part in listed] == [2, 2]
    assert "eos_position has Int64 binding" in record.log[0]  # TensorRT's warning


def test_every_target_of_the_wheel_is_known() -> None:
    import tensorrt_rtx as trt

    members = {name.lower() for name in trt.ComputeCapability.__members__}
    assert members - {"none", "current"} == set(RTX_TARGETS)


def test_options_reach_the_builder(bundle: Bundle, tmp_path: Path) -> None:
    plans = []
    for changes in ({}, {"optimization_level": 0, "workspace_bytes": 1 << 30}):
        plan = tmp_path / f"{len(plans)}.plan"
        plans.append(Builders().run(order_of(bundle, QUICK, plan, **changes), lambda *_: None))
    assert plans[0].sha256 != plans[1].sha256


SHIM = f"""
import json, sys, tensorrt_rtx
with open({str(COMMON_API)!r}, encoding="utf-8") as file:
    globals().update({{name: getattr(tensorrt_rtx, name) for name in json.load(file)}})
__version__ = "11.4.0.106"
def __getattr__(name):
    raise AttributeError(f"not every TensorRT has {{name}}")
"""
"""A module `tensorrt` with the names that every TensorRT has, over the one that needs no GPU."""


def test_what_is_built_with_tensorrt_takes_only_what_every_tensorrt_has(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code path of `--device tensorrt` as far as a machine without a GPU can go."""
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "tensorrt.py").write_text(SHIM)
    paths = [str(tmp_path / "shim"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    order = order_of(
        bundle, QUICK, tmp_path / "x", optimization_level=2, workspace_bytes=1 << 30,
        flavour="tensorrt", version="11.4.0.106", targets=("sm90 NVIDIA H100 80GB HBM3",),
    )  # fmt: skip
    outcome = Builders().run(order, lambda *_: None)
    assert order.plan.stat().st_size == outcome.bytes
    assert outcome.layers["MATRIX_MULTIPLY"].keys() == {"HALF"}
    assert outcome.activation_bytes > 1 << 20


def test_progress_grows_from_the_lint_to_the_writing(bundle: Bundle, tmp_path: Path) -> None:
    heard: list[tuple[str, float]] = []
    Builders().run(order_of(bundle, QUICK, tmp_path / "x"), lambda *said: heard.append(said))
    phases = [phase for phase, _ in heard]
    assert phases[:2] == ["checking the graph", "parsing"]
    assert phases[-1] == "writing"
    assert "Building engine" in phases
    fractions = [done for _, done in heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


# Strong typing


def failing(bundle: Bundle, order: Order) -> str:
    from lightfill.engine.errors import BuildFailed

    with pytest.raises(BuildFailed) as raised:
        Builders().run(order, lambda *_: None)
    assert not order.plan.exists()
    return str(raised.value)


def test_a_float32_unet_is_refused_before_it_is_parsed(bundle: Bundle, tmp_path: Path) -> None:
    order = order_of(bundle, "unet", tmp_path / "x", graph=bundle.graph("unet", "float32"))
    said = failing(bundle, order)
    assert said.startswith("unet: the float16 graph is not strongly typed: ")
    assert "computes in float" in said


def test_a_bundle_whose_unet_is_float32_is_refused_by_the_command(bundle: Bundle) -> None:
    """However the float32 graph came to be called float16: in the manifest all is in order."""
    wrong = bundle.graph("unet", "float32").read_bytes()
    bundle.graph("unet", "float16").write_bytes(wrong)
    manifest = json.loads((bundle.root / "lightfill.json").read_text("utf-8"))
    manifest["files"]["unet/float16.onnx"] = {
        "bytes": len(wrong), "sha256": hashlib.sha256(wrong).hexdigest(),
    }  # fmt: skip
    (bundle.root / "lightfill.json").write_text(json.dumps(manifest), "utf-8")
    ran = command(bundle, "--image-size", "64x64", "--jobs", 5)  # the first failure ends the rest
    _, said = ran.communicate()
    assert ran.returncode == 1
    assert "error: unet 64x64 sm89: unet: the float16 graph is not strongly typed: " in said
    assert not list(bundle.root.rglob("unet*.plan"))
    assert not list(bundle.root.rglob(".*"))


def after_the_lint(graph: Path, role: str, check: str) -> subprocess.CompletedProcess[str]:
    """Parse a graph that nobody linted, and apply one of the checks of the parsed network."""
    code = f"""
import os, sys
os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
from polygraphy.backend.trt import network_from_onnx_path
from lightfill.engine.errors import BuildFailed
from lightfill.export.engine_network import counted_layers, require_contract, require_float16
_, network, _ = network_from_onnx_path(sys.argv[1], strongly_typed=True)
try:
    {check}
except BuildFailed as error:
    print("refused:", error)
else:
    print("accepted", counted_layers(network))
"""
    command = [sys.executable, "-c", code, graph]
    return subprocess.run(command, check=True, capture_output=True, text=True)


FLOAT16 = "require_float16(counted_layers(network), {!r})"
CONTRACT = "require_contract(network, {!r})"


def test_a_float32_unet_is_refused_after_the_parse_too(bundle: Bundle) -> None:
    graph = bundle.graph("unet", "float32")
    said = after_the_lint(graph, "unet", FLOAT16.format("unet")).stdout
    assert re.search(
        r"refused: its network does not compute in float16: \d+ CONVOLUTION in FLOAT, "
        r"\d+ MATRIX_MULTIPLY in FLOAT; export the bundle again",
        said,
    )
    said = after_the_lint(graph, "unet", CONTRACT.format("unet")).stdout
    assert "refused: the graph has inputs {'sample': 'FLOAT'" in said


def test_the_float16_unet_is_accepted_after_the_parse(bundle: Bundle) -> None:
    graph = bundle.graph("unet", "float16")
    for check in (FLOAT16, CONTRACT):
        assert "accepted" in after_the_lint(graph, "unet", check.format("unet")).stdout


def float32_inside(path: Path, outputs: str = "images") -> Path:
    """A VAE decoder with float16 inputs and outputs whose convolution is float32."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = numpy_helper.from_array(np.ones((3, 4, 1, 1), np.float32), "kernel")
    shape = ["batch", 4, "height", "width"]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["latents"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["wide", "kernel"], ["pixels"]),
            helper.make_node("Cast", ["pixels"], [outputs], to=TensorProto.FLOAT16),
        ],
        "decoder",
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT16, shape)],
        [helper.make_tensor_value_info(outputs, TensorProto.FLOAT16, ["batch", 3, None, None])],
        [kernel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, path)
    return path


def test_float32_behind_float16_inputs_is_refused_before_and_after_the_parse(
    bundle: Bundle, tmp_path: Path
) -> None:
    graph = float32_inside(tmp_path / "decoder.onnx")
    said = failing(bundle, order_of(bundle, "vae_decoder", tmp_path / "x", graph=graph))
    assert "Conv  computes in float" in said
    said = after_the_lint(graph, "vae_decoder", CONTRACT.format("vae_decoder")).stdout
    assert "accepted" in said
    said = after_the_lint(graph, "vae_decoder", FLOAT16.format("vae_decoder")).stdout
    assert "refused: its network does not compute in float16: 1 CONVOLUTION in FLOAT" in said


def test_outputs_of_other_names_are_refused(tmp_path: Path) -> None:
    graph = float32_inside(tmp_path / "decoder.onnx", outputs="pictures")
    said = after_the_lint(graph, "vae_decoder", CONTRACT.format("vae_decoder")).stdout
    assert "refused: the graph has outputs {'pictures': 'HALF'}" in said


def test_a_safety_checkers_comparisons_stay_in_float32_and_nothing_else(tmp_path: Path) -> None:
    tiny = pytest.importorskip("tiny_components", reason="PyTorch is not installed")
    graph = tiny.graphs_in(tmp_path, "safety_checker")["float16"]
    said = after_the_lint(graph, "safety_checker", FLOAT16.format("safety_checker")).stdout
    assert "accepted" in said
    assert re.search(r"'MATRIX_MULTIPLY': \{'FLOAT': 2, 'HALF': \d+\}", said)
    said = after_the_lint(graph, "safety_checker", FLOAT16.format("unet")).stdout
    assert "refused: its network does not compute in float16: 2 MATRIX_MULTIPLY in FLOAT" in said


# What ends a build


def test_a_graph_that_tensorrt_cannot_read_is_an_error_with_its_reason(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()
    shutil.copy(bundle.graph(QUICK, "float16"), folder)  # without its weights
    said = failing(bundle, order_of(bundle, QUICK, tmp_path / "x", graph=folder / "float16.onnx"))
    assert "TensorRT's parser refuses the graph (" in said
    assert said.endswith("report this with your TensorRT version")


def test_another_version_than_the_keys_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    order = order_of(bundle, QUICK, tmp_path / "x")
    order = order.model_copy(update={"key": order.key.model_copy(update={"version": "1.8"})})
    assert f"TensorRT {VERSION} was loaded, its package says 1.8" in failing(bundle, order)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits on processes")
def test_a_plan_that_cannot_be_written_is_an_error_and_nothing_is_left(bundle: Bundle) -> None:
    import resource

    ran = command(
        bundle,
        "--image-size", "64x64",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    _, said = ran.communicate()
    assert ran.returncode == 1
    assert "error: text_encoder sm89: " in said
    assert "(File too large); free some space, or choose another disk with --engines DIR" in said
    assert remainders(bundle) == []
    assert not (bundle.root / "engines").exists()


def wait_for_builder(process: "subprocess.Popen[str]", bundle: Bundle) -> psutil.Process:
    """The process that builds, once TensorRT is at work in it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None
        for child in psutil.Process(process.pid).children():
            if child.memory_info().rss > 150 << 20:
                return child
        time.sleep(0.02)
    raise TimeoutError("no builder was started")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_build_leaves_nothing_behind(
    bundle: Bundle, number: signal.Signals, status: int
) -> None:
    ran = command(bundle, "--image-size", "square", "--jobs", "2")
    builder = wait_for_builder(ran, bundle)
    ran.send_signal(number)
    _, said = ran.communicate(timeout=60)
    assert ran.returncode == status
    assert "Traceback" not in said
    assert not builder.is_running()
    for path in remainders(bundle):  # what was finished before
        assert not path.name.startswith(".")
    assert all(engine.problem is None for engine in EngineStore.of(bundle).listed())


def test_a_builder_killed_for_memory_is_an_error_that_says_so(bundle: Bundle) -> None:
    ran = command(bundle, "--image-size", "64x64")
    wait_for_builder(ran, bundle).kill()
    _, said = ran.communicate(timeout=60)
    assert ran.returncode == 1
    assert re.search(r"error: \w+ .*sm89: its process was killed, most likely because memory", said)
    assert "use --jobs 1 or a larger machine" in said
    assert not list((bundle.root / "engines").rglob(".*"))


def test_the_builder_ends_with_its_parent_at_once_and_clears_away(bundle: Bundle) -> None:
    ran = command(bundle, "--image-size", "square", "--steps", "4")
    builder = wait_for_builder(ran, bundle)
    start = time.monotonic()
    ran.kill()
    while builder.is_running() and builder.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - start < 60
        time.sleep(0.005)
    ran.communicate()
    assert not list((bundle.root / "engines").rglob("unet*.plan")), "it built on for nobody"
    assert not list((bundle.root / "engines").rglob(".*.partial"))


@pytest.mark.slow  # a dozen builds of a second and more
def test_builds_killed_at_any_moment_leave_no_engine_that_is_not_whole(bundle: Bundle) -> None:
    chance, store = random.Random(20261123), EngineStore.of(bundle)
    wanted = request_of(bundle)
    (report,) = build_engines(wanted)
    content, seconds = report.engine.plan.read_bytes(), report.record.seconds
    code = "import sys; from engine_bundles import request_of; from lightfill.engine.bundle import "
    code += "Bundle; from lightfill.export.engines import build_engines; "
    code += "build_engines(request_of(Bundle.open(sys.argv[1])))"
    support = str(Path(__file__).parents[1] / "support")
    paths = os.pathsep.join(filter(None, [support, os.environ.get("PYTHONPATH", "")]))
    kills = 0
    while kills < 12:
        shutil.rmtree(store.root, ignore_errors=True)
        ran = subprocess.Popen(
            [sys.executable, "-c", code, bundle.root], env={**os.environ, "PYTHONPATH": paths}
        )
        time.sleep(chance.uniform(0.3, 1.0) * (seconds + 0.7))
        if ran.poll() is None:
            ran.kill()
            kills += 1
        ran.wait()
        for engine in store.listed():
            if engine.problem is None:
                assert bytes(store.read(engine)) == content
    (after,) = build_engines(wanted)
    assert after.engine.plan.read_bytes() == content
    deadline = time.monotonic() + 60
    while list(store.root.rglob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.1)  # the last builder has not noticed yet
    assert [path.suffix for path in sorted(store.root.rglob("*")) if path.is_file()] == [
        ".json",
        ".plan",
    ]


@pytest.mark.slow  # two processes building five engines
def test_two_commands_at_once_build_once(bundle: Bundle) -> None:
    options = ("--image-size", "64x64", "--steps", "4")
    one, two = command(bundle, *options), command(bundle, *options)
    said = [process.communicate(timeout=300)[1] for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), said
    rows = [re.findall(r"^ *(.+? sm89) .*?(was there|\d+ s)", text, re.M) for text in said]
    made: dict[str, int] = {}
    for name, outcome in rows[0] + rows[1]:
        made[name] = made.get(name, 0) + (outcome != "was there")
    assert made == dict.fromkeys(made, 1)
    assert len(made) == 5


@pytest.mark.slow  # every kind of component once
def test_engines_are_built_where_pytorch_cannot_be_imported(bundle: Bundle, tmp_path: Path) -> None:
    shadows = tmp_path / "shadows"
    for name in EXPORT_ONLY:
        (shadows / name).mkdir(parents=True)
        (shadows / name / "__init__.py").write_text(
            f"import pathlib; pathlib.Path({str(tmp_path / 'tried')!r}).write_text({name!r})\n"
            f"raise ImportError('{name} is not for building engines')\n"
        )
    paths = os.pathsep.join(filter(None, [str(shadows), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    refused = subprocess.run(
        [sys.executable, "-c", "import torch"], env=environment, check=False, capture_output=True
    )
    assert b"torch is not for building engines" in refused.stderr
    (tmp_path / "tried").unlink()
    ran = command(bundle, "--image-size", "64x64", "--steps", "4", env=environment)
    _, said = ran.communicate()
    assert ran.returncode == 0, said
    assert len(EngineStore.of(bundle).listed()) == 5
    assert not (tmp_path / "tried").exists()
