"""`lightfill build` and `lightfill engines`: options, messages, exit statuses, what is printed."""

import ctypes
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from engine_bundles import VERSION, Pretending, copied_demo, key_of, put, request_of
from rich.console import Console

from lightfill.engine import cli, gpus
from lightfill.engine.bundle import Bundle
from lightfill.engine.engine_store import EngineStore
from lightfill.engine.errors import BuildFailed, Cancelled
from lightfill.engine.gpus import Gpu, local_gpu, local_runtimes
from lightfill.export import build_command, engine_listing, engine_process, engine_targets, engines
from lightfill.export.engine_lock import engine_lock
from lightfill.export.engine_order import Order
from lightfill.export.engine_phases import Phases
from lightfill.export.engine_process import Builders
from lightfill.export.engines import planned

L4 = Gpu("sm89", "NVIDIA L4")
H100 = Gpu("sm90", "NVIDIA H100 80GB HBM3")


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return copied_demo(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `lightfill ARGS` in this process, with a screen wide enough for one-line errors."""
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setattr(cli, "_screen", Console(stderr=True, width=500))

    def run_with(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["lightfill", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capfd.readouterr()
        return Ran(int(stopped.value.code or 0), captured.out, captured.err)

    return run_with


class Machine:
    """What is installed and which GPU is here, as the commands see it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.installed: dict[str, str] = {"rtx": VERSION}
        self.gpu: Gpu | None = None
        self.second: Gpu | None = None
        for module in (engine_targets, engine_listing, gpus):
            patch.setattr(module, "installed_version", self._version)
            patch.setattr(module, "local_gpu", self._gpu)

    def _version(self, flavour: str) -> str | None:
        return self.installed.get(flavour)

    def _gpu(self, index: int = 0) -> Gpu | None:
        return (self.gpu, self.second, None)[min(index, 2)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch) -> Pretending:
    pretending = Pretending()
    monkeypatch.setattr(engine_process.Builders, "run", lambda _, *args: pretending.run(*args))
    return pretending


SIZE = ("--image-size", "square")
FOR_L4 = (*SIZE, "--gpu", "sm89")


def test_every_component_is_built_and_what_it_took_is_printed(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending
) -> None:
    ran = run("build", bundle.root, *FOR_L4)
    assert ran.status == 0
    assert ran.err.count(" 0.0 MB ") == 5 * 2  # plan and activations, as pretended
    for name in ("text_encoder", "text_encoder_2", "vae_encoder 512x512", "unet 512x512"):
        assert f" {name} sm89 " in ran.err
    again = run("build", bundle.root, *FOR_L4)
    assert again.status == 0
    assert again.err.count("was there") == 5
    assert len(builders.orders) == 5


def test_options_become_keys(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending, tmp_path: Path
) -> None:
    out = tmp_path / "engines"
    ran = run(
        "build", bundle.root, "--image-size", "768x1024", "--image-size", "square_hd",
        "--gpu", "sm120, sm89", "--batch", 1, "--batch", 4, "--steps", "8,4",
        "--optimization-level", 2, "--workspace", "4g", "--engines", out, "--device", "rtx",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert not (bundle.root / "engines").exists()
    keys = [order.key for order in builders.orders]
    assert {key.optimization_level for key in keys} == {2}
    assert {key.workspace_bytes for key in keys} == {4 << 30}
    unets = [key for key in keys if key.component == "unet"]
    asked = {(key.pixels, key.sizes["batch"], key.targets) for key in unets}
    assert asked == {
        (pixels, batch, (target,))
        for pixels in [(768, 1024), (1024, 1024)]
        for batch in (1, 4)
        for target in ("sm89", "sm120")
    }
    assert len(unets) == len(asked)


def test_all_sizes_are_the_presets_and_others_can_be_added(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending
) -> None:
    ran = run("build", bundle.root, "--all-sizes", "--image-size", "64x64", "--gpu", "sm89")
    assert ran.status == 0
    unets = [order.key.pixels for order in builders.orders if order.key.component == "unet"]
    assert len(unets) == 7
    assert (64, 64) in unets


def test_a_dry_run_shows_sizes_and_builds_nothing(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending
) -> None:
    ran = run("build", bundle.root, *FOR_L4, "--dry-run")
    assert ran.status == 0
    assert re.search(r"^ unet 512x512 sm89 +about 45 MB $", ran.out, re.MULTILINE)
    assert "5 of 5 engines to build, about 0.18 GB" in ran.out
    assert " GB free" in ran.out
    assert not builders.orders
    run("build", bundle.root, *FOR_L4)
    assert (
        "0 of 5 engines to build, about 0.00 GB"
        in run("build", bundle.root, *FOR_L4, "--dry-run").out
    )


def test_this_machines_gpu_is_built_for_unless_another_is_named(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending
) -> None:
    machine.gpu = L4
    assert run("build", bundle.root, *SIZE).status == 0
    assert {order.key.targets for order in builders.orders} == {("sm89",)}


def test_tensorrt_builds_for_the_gpu_that_is_here(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending
) -> None:
    machine.installed, machine.gpu = {"tensorrt": "11.4.0.106"}, H100
    assert run("build", bundle.root, *SIZE).status == 0
    assert run("build", bundle.root, *SIZE, "--gpu", "sm90", "--device", "tensorrt").status == 0
    keys = [order.key for order in builders.orders]
    assert len(keys) == 5
    assert {(key.flavour, key.version, *key.targets) for key in keys} == {
        ("tensorrt", "11.4.0.106", "sm90 NVIDIA H100 80GB HBM3")
    }


def test_another_gpu_of_this_machine_is_built_on_and_for(
    run: Run, bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_on = []

    def building(self: Builders, order: Order, on_phase: Any) -> Any:
        environment = engine_process.environment_with(self._device_index)
        built_on.append((order.key.targets, environment.get("CUDA_VISIBLE_DEVICES")))
        return Pretending().run(order, on_phase)

    monkeypatch.setattr(Builders, "run", building)
    machine.installed, machine.gpu, machine.second = {"tensorrt": "11.4.0.106"}, L4, H100
    assert run("build", bundle.root, *SIZE, "--device-index", 1).status == 0
    assert set(built_on) == {(("sm90 NVIDIA H100 80GB HBM3",), "1")}
    assert set(verdicts(run, EngineStore.of(bundle)).values()) == {None}
    machine.second = None
    ran = run("build", bundle.root, *SIZE, "--device-index", 1)
    assert (ran.status, ran.err) == (
        2, "error: device_index: this machine has no GPU 1; leave it out\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "index", "first"),
    [
        (None, 0, None),
        (None, 2, "2"),
        ("3,1", 0, "3,1"),
        ("3, 1", 1, "1"),
        ("GPU-a,GPU-b", 1, "GPU-b"),
    ],
)
def test_the_gpu_that_is_built_on_is_the_first_that_its_builder_sees(
    bundle: Bundle, visible: str | None, index: int, first: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    says = "import os, sys; sys.exit(str(os.environ.get('CUDA_VISIBLE_DEVICES')))"
    assert f"(exit status 1: {first})" in death_of(says, bundle, monkeypatch, index)


RTX, BOTH, NEITHER = {"rtx": VERSION}, {"rtx": VERSION, "tensorrt": "11.4.0.106"}, dict[str, str]()
WRONG: list[tuple[Any, Gpu | None, tuple[Any, ...], int, str]] = [
    (RTX, None, (), 2, "image_size: name the sizes to build, as --image-size square_hd, or pass "),
    (RTX, None, ("--image-size", "12x", "--gpu", "sm89"), 2, "image_size: '12x' is neither "),
    (RTX, None, ("--image-size", "source"), 2, "image_size: 'source' has no size of its own"),
    (RTX, None, SIZE, 2, "gpu: there is none here; name those to build for, of sm75, "),
    (RTX, None, (*SIZE, "--gpu", "8.9"), 2, "gpu: '8.9' is no compute capability; write it as "),
    (RTX, None, (*SIZE, "--gpu", ""), 2, "gpu: '' is no compute capability; write it as sm89"),
    (
        RTX, None, (*SIZE, "--gpu", "sm89,sm90"), 2,
        ("gpu: TensorRT-RTX does not build for sm90 (it does for sm75, sm80, sm86, sm89, sm120, "
        "sm121); use --device tensorrt on a machine with that GPU"),
    ),
    (RTX, H100, SIZE, 2, "gpu: TensorRT-RTX does not build for sm90 ("),
    (RTX, None, (*SIZE, "--gpu", "sm100"), 2, "does not build for sm100"),
    (RTX, None, (*FOR_L4, "--steps", "four"), 2, "steps: 'four' is no list of numbers; "),
    (RTX, None, (*FOR_L4, "--steps", "3"), 1, "has no UNet for 3 steps (it has 1, 2, 4, 8)"),
    (RTX, None, (*FOR_L4, "--batch", "0"), 2, "batch: must be from 1 to 8, got 0"),
    (RTX, None, (*FOR_L4, "--jobs", "0"), 2, "jobs: must be from 1 to 64, got 0"),
    (RTX, None, (*FOR_L4, "--optimization-level", "6"), 2, "optimization_level: must be from 0"),
    (RTX, None, (*FOR_L4, "--workspace", "4X"), 2, "workspace: '4X' is no amount of memory; "),
    (RTX, None, (*FOR_L4, "--workspace", "0"), 2, "workspace: '0' is no amount of memory; "),
    (RTX, None, (*FOR_L4, "--device", "cuda"), 2, "device: engines are built for tensorrt or "),
    (
        RTX, None, (*FOR_L4, "--device", "tensorrt"), 1,
        ("TensorRT is not installed; on the machine whose NVIDIA GPU will run the engines, `pip "
        "install 'lightfill[build,tensorrt]'`"),
    ),
    (NEITHER, None, FOR_L4, 1, "TensorRT-RTX is not installed; `pip install "),
    (NEITHER, None, (*FOR_L4, "--device", "rtx"), 1, "`pip install 'lightfill[build,rtx]'`"),
    (BOTH, None, FOR_L4, 2, "device: TensorRT and TensorRT-RTX are installed; say which"),
    (
        BOTH, None, (*SIZE, "--device", "tensorrt"), 1,
        "TensorRT builds on the GPU that will run the engines, and no NVIDIA driver or GPU is here",
    ),
    (
        BOTH, H100, (*FOR_L4, "--device", "tensorrt"), 2,
        ("gpu: TensorRT builds for the GPU it runs on, here sm90 (NVIDIA H100 80GB HBM3); leave "
        "--gpu out"),
    ),
    (BOTH, H100, (*SIZE, "--device", "tensorrt", "--jobs", "2"), 2, "jobs: TensorRT times kernels"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("installed", "gpu", "options", "status", "message"),
    WRONG,
    ids=[f"{' '.join(options) or 'none'} on {gpu}" for _, gpu, options, _, _ in WRONG],
)
def test_what_cannot_be_built_is_one_sentence_and_a_status(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending,
    installed: dict[str, str], gpu: Gpu | None, options: tuple[Any, ...], status: int, message: str,
) -> None:  # fmt: skip
    machine.installed, machine.gpu = installed, gpu
    ran = run("build", bundle.root, *options)
    assert ran.status == status
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert ran.out == ""
    assert not builders.orders
    assert not (bundle.root / "engines").exists()


def test_a_directory_that_is_no_bundle(run: Run, machine: Machine, tmp_path: Path) -> None:
    for command in (("build", tmp_path, *FOR_L4), ("engines", tmp_path)):
        ran = run(*command)
        assert ran.status == 1
        assert "is not a bundle" in ran.err


@pytest.mark.parametrize("missing", ["onnx", "polygraphy", "filelock"])
def test_tools_that_are_missing_are_named_when_something_must_be_built(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending, missing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    find_spec = engine_targets.find_spec
    monkeypatch.setattr(
        engine_targets, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    ran = run("build", bundle.root, *FOR_L4)
    assert ran.status == 1
    assert f"building engines needs {missing}; `pip install 'lightfill[build]'`" in ran.err
    assert not builders.orders
    monkeypatch.setattr(engine_targets, "find_spec", find_spec)
    run("build", bundle.root, *FOR_L4)
    monkeypatch.setattr(engine_targets, "find_spec", lambda _: None)
    assert run("build", bundle.root, *FOR_L4).status == 0


def test_too_little_room_ends_with_status_1(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    usage = shutil.disk_usage(bundle.root)._replace(free=100_000_000)
    monkeypatch.setattr(engines.shutil, "disk_usage", lambda _: usage)
    ran = run("build", bundle.root, *FOR_L4)
    assert ran.status == 1
    assert "error: building 5 of 5 engines takes about 0.18 GB and " in ran.err
    assert " has 0.10 GB free; free some, build fewer sizes" in ran.err


def test_a_store_that_cannot_be_written_ends_with_status_1(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    ran = run("build", bundle.root, *FOR_L4, "--engines", tmp_path / "file" / "engines")
    assert ran.status == 1
    assert "cannot be written; choose another directory with --engines DIR" in ran.err


def test_a_build_that_fails_ends_with_status_1_and_the_engines_name(
    run: Run, bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_(*_: object) -> None:
        raise BuildFailed("no [kernel]; report this")

    monkeypatch.setattr(engine_process.Builders, "run", run_)
    ran = run("build", bundle.root, *FOR_L4)
    assert ran.status == 1
    assert ran.err.splitlines()[-1] == "error: text_encoder sm89: no [kernel]; report this"


def test_ctrl_c_ends_with_status_130_and_says_how_to_go_on(
    run: Run, bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build_command, "build_engines", interrupted)
    ran = run("build", bundle.root, *FOR_L4)
    assert ran.status == 130
    assert "engines that were finished stay; the same command goes on" in ran.err


def test_off_a_terminal_every_engine_has_a_line_when_its_build_begins(
    run: Run, bundle: Bundle, machine: Machine, builders: Pretending
) -> None:
    said = run("build", bundle.root, *FOR_L4).err.splitlines()
    assert said[:5] == [
        f"building {name} sm89"
        for name in ("text_encoder", "text_encoder_2", "vae_encoder 512x512",
                     "vae_decoder 512x512", "unet 512x512")
    ]  # fmt: skip
    assert "building" not in run("build", bundle.root, *FOR_L4).err


def test_a_bar_on_a_terminal_shows_engine_phase_and_how_far_it_is(
    bundle: Bundle, machine: Machine
) -> None:
    screen = Console(force_terminal=True, width=100, record=True, color_system=None)
    (engine,) = planned(request_of(bundle))
    progress = build_command._Screen(screen)
    with progress:
        progress.begin(engine)
        for done in (0.25, 0.75):
            progress.phase(engine, "Building engine", done)
            progress._bars.refresh()
    drawn = re.findall("text_encoder sm89 (\u2501*) +[0-9:]+ Building engine", screen.export_text())
    assert {len(bar) for bar in drawn} == {10, 30}  # of 40


# lightfill engines


def test_where_nothing_is_built_the_listing_says_how_to(run: Run, bundle: Bundle) -> None:
    ran = run("engines", bundle.root)
    assert ran.status == 0
    assert f"no engines in {bundle.root / 'engines'}; build some with `lightfill build`" in ran.out
    assert json.loads(run("engines", bundle.root, "--json").out) == []


@pytest.fixture
def store(bundle: Bundle) -> EngineStore:
    """Engines of every kind: for here, for another GPU, another version, damaged, unfinished."""
    store = EngineStore.of(bundle)
    put(store, key_of(bundle))
    put(store, key_of(bundle, targets=("sm120",)))
    put(store, key_of(bundle, version="1.6"))
    put(store, key_of(bundle, flavour="tensorrt", targets=("sm90 NVIDIA H100 80GB HBM3",)))
    put(store, key_of(bundle, "vae_decoder", graph_sha256="0" * 64))
    put(store, key_of(bundle, "text_encoder")).with_suffix(".json").unlink()
    put(store, key_of(bundle, "vae_encoder"), b"good plan").write_bytes(b"evil plan")
    return store


def verdicts(run: Run, store: EngineStore) -> dict[str, str | None]:
    found = json.loads(run("engines", store.bundle.root, "--json").out)
    return {each["plan"].rpartition("-")[0]: each["why_not_here"] for each in found}


def test_engines_are_listed_with_what_they_are_for_and_why_not_here(
    run: Run, store: EngineStore, machine: Machine
) -> None:
    machine.gpu = L4
    assert verdicts(run, store) == {
        "rtx-1.6/sm89/unet-512x512-b1": "built by TensorRT 1.6, installed is 1.7.1.116",
        "rtx-1.7.1.116/sm120/unet-512x512-b1": "built for sm120, this GPU is sm89",
        "rtx-1.7.1.116/sm89/text_encoder-any-b1": "it has no record: its build did not finish",
        "rtx-1.7.1.116/sm89/unet-512x512-b1": None,
        "rtx-1.7.1.116/sm89/vae_decoder-512x512-b1": (
            "the bundle's vae_decoder has changed since it was built"
        ),
        "rtx-1.7.1.116/sm89/vae_encoder-512x512-b1": None,  # its bytes are read when it is loaded
        "tensorrt-1.7.1.116/sm90-NVIDIA-H100-80GB-HBM3/unet-512x512-b1": (
            "its TensorRT is not installed: `pip install 'lightfill[tensorrt]'`"
        ),
    }
    out = run("engines", store.bundle.root).out
    assert "no: built for sm120, this GPU is sm89" in out
    assert out.count(" yes") == 2


def test_without_a_gpu_nothing_is_usable_here_and_what_is_sound_is_valid(
    run: Run, store: EngineStore, machine: Machine
) -> None:
    assert set(verdicts(run, store).values()) == {
        "there is no NVIDIA GPU here",
        "its TensorRT is not installed: `pip install 'lightfill[tensorrt]'`",
        "it has no record: its build did not finish",
        "the bundle's vae_decoder has changed since it was built",
    }
    found = json.loads(run("engines", store.bundle.root, "--json").out)
    assert [each["valid"] for each in found].count(True) == 5
    assert not any(each["usable_here"] for each in found)
    record = found[0]["record"]
    assert record["key"]["graph_sha256"] == key_of(store.bundle).graph_sha256
    assert record["key"]["sizes"] == {"batch": 1, "height": 64, "width": 64}


def test_pruning_removes_what_nothing_can_use_and_keeps_what_other_machines_can(
    run: Run, store: EngineStore, machine: Machine
) -> None:
    folder = store.root / "rtx-1.7.1.116" / "sm89"
    (folder / ".unet-512x512-b1-0123456789ab.feed.partial").write_bytes(b"x" * 100)
    (folder / ".unet-512x512-b1-0123456789ab.lock").touch()
    ran = run("engines", store.bundle.root, "--prune")
    assert ran.status == 0
    assert "removed 3 engines, " in ran.out
    assert "the plan differs from what was written" in ran.out
    left = [path.name.rpartition("-")[0] for path in sorted(store.root.rglob("*.plan"))]
    assert left == ["unet-512x512-b1"] * 4
    assert not list(store.root.rglob(".*"))
    assert "removed 0 engines, 0.0 MB" in run("engines", store.bundle.root, "--prune").out


def test_pruning_reads_plans_that_were_checked_before_too(
    run: Run, bundle: Bundle, machine: Machine
) -> None:
    """A disk that goes bad changes no time of modification, by which loading goes."""
    store = EngineStore.of(bundle)
    plan = put(store, key_of(bundle), b"good plan")
    (engine,) = store.listed()
    store.read(engine)
    times = plan.stat()
    with plan.open("r+b") as file:
        file.write(b"evil")
    os.utime(plan, ns=(times.st_atime_ns, times.st_mtime_ns))
    store.read(engine)
    assert "removed 1 engine, " in run("engines", bundle.root, "--prune").out
    assert not plan.exists()


def test_pruning_leaves_what_another_process_is_building(
    run: Run, bundle: Bundle, machine: Machine
) -> None:
    """Between a plan's and its record's taking their places it looks like one left unfinished."""
    store = EngineStore.of(bundle)
    plan = put(store, key_of(bundle))
    record = plan.with_suffix(".json").rename(plan.with_name(".record.partial"))
    with engine_lock(plan, store.root, threading.Event(), lambda: None):
        assert "removed 0 engines" in run("engines", bundle.root, "--prune").out
        record.rename(plan.with_suffix(".json"))
    assert [engine.problem for engine in store.listed()] == [None]
    assert not list(store.root.rglob(".*"))


def test_pruning_without_filelock_says_what_to_install_and_listing_needs_none(
    run: Run, store: EngineStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that only runs engines has `lightfill[rtx]`, and not what builds."""
    monkeypatch.setattr(engine_targets, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "filelock", None)
    monkeypatch.delitem(sys.modules, "lightfill.export.engine_lock", raising=False)
    assert run("engines", store.bundle.root).status == 0
    ran = run("engines", store.bundle.root, "--prune")
    assert ran.status == 1
    assert ran.err == "error: pruning needs filelock; `pip install 'lightfill[build]'`\n"


def test_what_cannot_be_removed_is_one_sentence_and_a_status(
    run: Run, store: EngineStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", denied)
    ran = run("engines", store.bundle.root, "--prune")
    assert ran.status == 1
    assert re.fullmatch(
        r"error: \S+/engines/\S+ cannot be removed \(Permission denied\); run the command as a "
        r"user who may write there\n",
        ran.err,
    )


def test_pruning_everything_removes_the_directory(run: Run, bundle: Bundle) -> None:
    put(EngineStore.of(bundle), key_of(bundle)).unlink()
    pruned = json.loads(run("engines", bundle.root, "--prune", "--json").out)
    assert len(pruned) == 1
    assert not (bundle.root / "engines").exists()


def test_engines_elsewhere_are_listed_there(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    elsewhere = tmp_path / "there"
    put(EngineStore.of(bundle, elsewhere), key_of(bundle))
    assert len(json.loads(run("engines", bundle.root, "--json", "--engines", elsewhere).out)) == 1
    assert json.loads(run("engines", bundle.root, "--json").out) == []


# The process that builds, from outside


ORDER: dict[str, Any] = {"role": "unet", "graph": Path("x.onnx"), "plan": Path("x.plan")}


def death_of(
    program: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, device_index: int = 0
) -> str:
    monkeypatch.setattr(engine_process, "_COMMAND", [sys.executable, "-c", program])
    with pytest.raises(BuildFailed) as raised:
        Builders(device_index).run(Order(key=key_of(bundle), **ORDER), lambda *_: None)
    return str(raised.value)


def test_a_process_that_dies_is_an_error_with_its_last_words(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert death_of("import os; os.kill(os.getpid(), 9)", bundle, monkeypatch).startswith(
        "its process was killed, most likely because memory ran out"
    )
    said = death_of(
        "import os, sys; print('a\\nlast words', file=sys.stderr, flush=True); os.abort()",
        bundle,
        monkeypatch,
    )
    assert "died (signal SIGABRT: last words); report this with your TensorRT version" in said
    assert "died (exit status 3: it said nothing)" in death_of("exit(3)", bundle, monkeypatch)


def test_a_process_that_says_much_is_not_held_up(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; print('x' * 5_000_000, file=sys.stderr); print('end', file=sys.stderr)"
    assert "(exit status 0: end)" in death_of(program, bundle, monkeypatch)


def test_nothing_is_started_once_builders_are_stopped(bundle: Bundle) -> None:
    builders = Builders()
    builders.stop()
    with pytest.raises(Cancelled, match="run the command again to go on"):
        builders.run(Order(key=key_of(bundle), **ORDER), lambda *_: None)


def test_phases_are_nested_and_only_grow() -> None:
    told: list[tuple[str, float]] = []
    phases = Phases(lambda phase, done: told.append((phase, done)))
    phases.start("build", None, 2)
    phases.start("clone", "build", 4)
    phases.step("clone", 1)
    phases.finish("clone")
    phases.step("build", 0)
    phases.start("time", "build", 0)
    phases.step("time", 0)
    phases.step("unknown", 0)
    phases.start("loop", "loop", 1)  # no hierarchy, no hang
    assert told == [
        ("build", 0.0), ("clone", 0.0), ("clone", 0.25), ("build", 0.5), ("time", 0.5),
        ("time", 1.0), ("loop", 1.0),
    ]  # fmt: skip


# The driver


class Driver:
    """libcuda, as far as it is asked: two GPUs, of which the second is an L4."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 1 if name == self.fails else getattr(self, f"_{name}")(*arguments)

    def _cuInit(self, flags: int) -> int:
        return flags

    def _cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0 if index < 2 else 101

    def _cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = (b"NVIDIA A100", b"NVIDIA L4")[device.value][: size - 1]
        return 0

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {75: (8, 8), 76: (0, 9)}[attribute][device.value]
        return 0


def test_the_driver_is_asked_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver())
    assert local_gpu() == Gpu("sm80", "NVIDIA A100")
    assert local_gpu(1) == L4
    assert local_gpu(2) is None


@pytest.mark.parametrize(
    "call", ["cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute"]
)
def test_a_driver_that_fails_has_no_gpu(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(fails=call))
    assert local_gpu() is None


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert local_gpu() is None
    assert local_runtimes() == []


def test_what_this_machine_can_run_is_what_is_installed_on_its_gpu(machine: Machine) -> None:
    machine.gpu, machine.installed = L4, BOTH
    assert {(each.flavour, each.version, each.key_target) for each in local_runtimes()} == {
        ("rtx", VERSION, "sm89"),
        ("tensorrt", "11.4.0.106", "sm89 NVIDIA L4"),
    }
