"""Which engines are built, when they are not, and what is left when a build does not finish.

The builders here pretend: tests/export/test_engine_builds.py has real ones.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from engine_bundles import Pretending, copied_demo, pretended, request_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightfill.engine.bundle import Bundle
from lightfill.engine.engine_key import sizes_for
from lightfill.engine.engine_store import EngineStore
from lightfill.engine.errors import BuildFailed, Cancelled, ComponentMissing
from lightfill.engine.manifest import FileEntry
from lightfill.engine.request import IMAGE_SIZES
from lightfill.export import engine_process, engines
from lightfill.export.engine_lock import engine_lock, partial_path, sweep, unless_built
from lightfill.export.engine_order import Order
from lightfill.export.engine_progress import BuildProgress, EngineReport, PlannedEngine
from lightfill.export.engines import BuildRequest, build_engines, planned


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return copied_demo(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def request_(demo: Bundle, tmp_path: Path) -> BuildRequest:
    return request_of(demo, engines=tmp_path / "engines")


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch) -> Pretending:
    pretending = Pretending()
    monkeypatch.setattr(engine_process.Builders, "run", lambda _, *args: pretending.run(*args))
    return pretending


def labels(request: BuildRequest) -> list[str]:
    return [engine.label for engine in planned(request)]


def test_everything_a_picture_needs_is_planned_and_unets_last(demo: Bundle) -> None:
    assert labels(request_of(demo, components=None)) == [
        "text_encoder sm89",
        "text_encoder_2 sm89",
        "vae_encoder 512x512 sm89",
        "vae_decoder 512x512 sm89",
        "unet 512x512 sm89",
    ]


def test_what_a_size_or_a_batch_does_not_change_is_planned_once(demo: Bundle) -> None:
    wanted = request_of(
        demo, components=None, sizes=[(512, 512), (500, 490), (64, 96)], batches=[1, 2]
    )
    plan = labels(wanted)
    assert len(plan) == len(set(plan))
    assert plan.count("text_encoder sm89") == 1
    assert [label for label in plan if label.startswith("vae_encoder")] == [
        "vae_encoder 512x512 sm89",
        "vae_encoder 64x96 sm89",
    ]
    assert [label for label in plan if label.startswith("unet")] == [
        "unet 512x512 sm89",
        "unet 512x512 batch 2 sm89",
        "unet 64x96 sm89",
        "unet 64x96 batch 2 sm89",
    ]


def test_several_gpus_get_a_plan_each(demo: Bundle) -> None:
    assert labels(request_of(demo, targets=("sm89", "sm120"))) == [
        "text_encoder sm89",
        "text_encoder sm120",
    ]


def test_step_counts_the_bundle_lacks_are_refused(demo: Bundle) -> None:
    with pytest.raises(ComponentMissing, match="no UNet for 3 steps"):
        planned(request_of(demo, components=None, steps=[3]))


def test_a_bundle_without_float16_graphs_is_refused(demo: Bundle) -> None:
    part = demo.component("text_encoder")
    changed = part.model_copy(update={"graphs": {"float32": part.graphs["float32"]}})
    with pytest.raises(ComponentMissing, match="export --arithmetic float16"):
        planned(request_of(with_component(demo, "text_encoder", changed)))


def with_component(bundle: Bundle, name: str, part: Any) -> Bundle:
    components = {**bundle.manifest.components, name: part}
    return Bundle(bundle.root, bundle.manifest.model_copy(update={"components": components}))


def with_file(bundle: Bundle, path: str, sha256: str) -> Bundle:
    files = {**bundle.manifest.files, path: FileEntry(bytes=10, sha256=sha256)}
    return Bundle(bundle.root, bundle.manifest.model_copy(update={"files": files}))


CHANGES = st.one_of(
    st.tuples(st.just("version"), st.text(min_size=1, max_size=8)),
    st.tuples(st.just("targets"), st.sampled_from([("sm75",), ("sm80",), ("sm86",), ("sm120",)])),
    st.tuples(st.just("flavour"), st.just("tensorrt")),
    st.tuples(st.just("optimization_level"), st.integers(0, 5)),
    st.tuples(st.just("workspace_bytes"), st.integers(1, 2**40)),
    st.tuples(st.just("batches"), st.lists(st.integers(2, 8), min_size=1, max_size=1)),
    st.tuples(
        st.just("sizes"), st.lists(st.tuples(*[st.integers(64, 2048)] * 2), min_size=1, max_size=1)
    ),
    st.tuples(
        st.sampled_from(["unet/float16.onnx", "unet/weights.bin"]),
        st.text("0123456789abcdef", min_size=64, max_size=64),
    ),
)


@settings(max_examples=200)
@given(CHANGES)
def test_any_change_of_what_is_built_is_another_engine(
    demo: Bundle, change: tuple[str, Any]
) -> None:
    name, value = change
    asked: dict[str, Any] = {"components": ["unet"]}
    before = planned(request_of(demo, **asked))[0]
    if name == "sizes":
        assume(sizes_for("unet", *value[0]) != sizes_for("unet", 512, 512))
    if "/" in name:
        after = planned(request_of(with_file(demo, name, value), **asked))[0]
    else:
        after = planned(request_of(demo, **asked | {name: value}))[0]
    assert after.key.digest != before.key.digest
    assert after.plan != before.plan


def test_flags_are_part_of_the_key(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    before = planned(request_of(demo))[0].key
    assert "STRONGLY_TYPED" in before.flags
    monkeypatch.setattr(engines, "FLAGS", (*engines.FLAGS, "REFIT"))
    assert planned(request_of(demo))[0].key.digest != before.digest


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(sorted(IMAGE_SIZES.values())), min_size=1, unique=True),
    st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True),
    st.randoms(use_true_random=False),
)
def test_what_is_built_is_never_built_again(
    demo: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[tuple[int, int]],
    batches: list[int],
    random: Any,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        pretending = Pretending()
        patch.setattr(engine_process.Builders, "run", lambda _, *args: pretending.run(*args))
        asked: dict[str, Any] = {"components": None, "engines": tmp_path_factory.mktemp("store")}
        first = build_engines(request_of(demo, sizes=sizes, batches=batches, **asked))
        assert all(report.made for report in first)
        assert len(pretending.orders) == len(first)
        random.shuffle(sizes)
        random.shuffle(batches)
        again = build_engines(request_of(demo, sizes=sizes, batches=batches, **asked))
        assert not any(report.made for report in again)
        assert len(pretending.orders) == len(first)
    by_digest = {report.record.digest: report.record for report in first}
    assert {report.record.digest: report.record for report in again} == by_digest


def test_a_build_leaves_plan_and_record_and_nothing_else(
    request_: BuildRequest, builders: Pretending
) -> None:
    (report,) = build_engines(request_)
    folder = report.engine.plan.parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [report.engine.plan.name, report.engine.plan.with_suffix(".json").name]
    )
    assert report.record.key == report.engine.key
    assert bytes(request_.store.read(request_.store.listed()[0])) == report.engine.plan.read_bytes()


@pytest.mark.parametrize("what", ["plan", "record"])
def test_a_damaged_engine_is_built_again_in_its_place(
    request_: BuildRequest, builders: Pretending, what: str
) -> None:
    (report,) = build_engines(request_)
    path = report.engine.plan if what == "plan" else report.engine.plan.with_suffix(".json")
    path.write_bytes(path.read_bytes()[:-5])
    assert not planned(request_)[0].built
    (again,) = build_engines(request_)
    assert again.made
    assert request_.store.listed()[0].problem is None


def test_too_little_room_is_said_before_anything_is_built(
    request_: BuildRequest,
    builders: Pretending,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    usage = shutil.disk_usage(Path.cwd())._replace(free=30_000_000)
    monkeypatch.setattr(engines.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BuildFailed) as raised:
        build_engines(request_)
    assert str(raised.value) == (
        f"building 1 of 1 engines takes about 0.03 GB and {tmp_path} has 0.03 GB free; free some, "
        "build fewer sizes, or choose another disk with --engines DIR"
    )
    assert not builders.orders
    assert not request_.store.root.exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_bundle_that_cannot_be_written_is_said_by_the_system(
    request_: BuildRequest, builders: Pretending
) -> None:
    request_.store.root.mkdir()
    request_.store.root.chmod(0o500)
    with pytest.raises(BuildFailed, match="choose another directory with --engines DIR"):
        build_engines(request_)


def test_a_bundle_that_cannot_be_written_is_an_error_with_the_way_out(
    request_: BuildRequest, builders: Pretending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.os, "access", lambda *_: False)
    with pytest.raises(
        BuildFailed, match=r"cannot be written; .* --engines DIR \(engines=DIR in Python\)"
    ):
        build_engines(request_)


def test_a_file_where_the_store_should_be_is_an_error(
    demo: Bundle, tmp_path: Path, builders: Pretending
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildFailed, match="--engines"):
        build_engines(request_of(demo, engines=tmp_path / "file" / "engines"))
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "rtx-1.7.1.116").touch()
    with pytest.raises(
        BuildFailed, match=r"^text_encoder sm89: .* cannot be written \(.*--engines"
    ):
        build_engines(request_of(demo, engines=tmp_path / "engines"))


def test_the_first_failure_ends_the_rest_and_keeps_what_was_finished(
    demo: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: object, order: Order, on_phase: object) -> Any:
        if order.key.component == "vae_encoder":
            raise BuildFailed("TensorRT has no such kernel; report this")
        return pretended(order)

    monkeypatch.setattr(engine_process.Builders, "run", run)
    wanted = request_of(demo, components=None, engines=tmp_path / "engines")
    with pytest.raises(
        BuildFailed, match=r"^vae_encoder 512x512 sm89: TensorRT has no such kernel"
    ):
        build_engines(wanted)
    built = [engine.key.component for engine in planned(wanted) if engine.built]
    assert built == ["text_encoder", "text_encoder_2"]
    assert not list(wanted.store.root.rglob(".*"))


def test_several_jobs_run_at_once_and_reports_keep_the_plans_order(
    demo: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2, timeout=60)

    def run(_: object, order: Order, on_phase: object) -> Any:
        if order.key.component in {"text_encoder", "text_encoder_2"}:
            together.wait()  # breaks unless both are under way
        return pretended(order)

    monkeypatch.setattr(engine_process.Builders, "run", run)
    wanted = request_of(demo, components=None, engines=tmp_path / "engines", jobs=2)
    reports = build_engines(wanted)
    assert [report.engine.label for report in reports] == labels(wanted)


class Heard(BuildProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, engine: PlannedEngine) -> None:
        self.said.append(f"begin {engine.label}")

    def phase(self, engine: PlannedEngine, what: str, done: float) -> None:
        self.said.append(f"{what} {done:g}")

    def end(self, report: EngineReport) -> None:
        self.said.append("made" if report.made else "was there")


def test_progress_is_told(request_: BuildRequest, builders: Pretending) -> None:
    heard = Heard()
    build_engines(request_, heard)
    assert heard.said == ["begin text_encoder sm89", "Building engine 0.5", "made"]


def test_two_builders_at_once_build_once(request_: BuildRequest, builders: Pretending) -> None:
    (engine,) = planned(request_)
    heard, reports = Heard(), []
    stopped = threading.Event()
    with engine_lock(engine.plan, request_.store.root, stopped, lambda: None):
        second = threading.Thread(
            target=lambda: reports.extend(build_engines(request_, heard)), daemon=True
        )
        second.start()
        deadline = time.monotonic() + 60
        while "another process is building it 0" not in heard.said:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        elsewhere = request_of(request_.bundle, engines=request_.engines)
        first = engines._Builds(elsewhere, BuildProgress())
        first._build(engine)
    second.join(60)
    assert [report.made for report in reports] == [False]
    assert len(builders.orders) == 1
    assert heard.said[-1] == "was there"


def test_who_waits_for_another_builder_can_be_stopped(request_: BuildRequest) -> None:
    (engine,) = planned(request_)
    stopped, root = threading.Event(), request_.store.root
    with engine_lock(engine.plan, root, stopped, lambda: None):

        def wait() -> None:
            with engine_lock(engine.plan, root, stopped, stopped.set):
                pytest.fail("two hold one lock")

        with pytest.raises(Cancelled, match="run the command again"):
            wait()
    assert not root.exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows removes no file that is open")
def test_a_lock_on_a_file_that_was_removed_meanwhile_is_not_taken_for_one(
    request_: BuildRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits may have opened the file when the builder before removes it: another lock."""
    (engine,) = planned(request_)
    root, never = request_.store.root, threading.Event()
    before = contextlib.ExitStack()
    before.enter_context(engine_lock(engine.plan, root, never, lambda: None))
    opened = os.open

    def opened_too_early(path: Any, *arguments: Any, **options: Any) -> int:
        descriptor = opened(path, *arguments, **options)
        if str(path).endswith(".lock"):
            before.close()
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened_too_early)
        mine = contextlib.ExitStack()
        mine.enter_context(engine_lock(engine.plan, root, never, lambda: None))
    with mine, unless_built(engine.plan, root) as free:
        assert not free
    assert not root.exists()


def test_sweeping_leaves_what_a_running_build_writes(request_: BuildRequest) -> None:
    (engine,) = planned(request_)
    other = planned(request_of(request_.bundle, engines=request_.engines, sizes=[(64, 64)],
                               components=["unet"]))[0]  # fmt: skip
    store = request_.store
    other.plan.parent.mkdir(parents=True)
    left = partial_path(other.plan, "killed")
    left.write_bytes(b"x" * 1000)
    with engine_lock(engine.plan, store.root, threading.Event(), lambda: None):
        running = partial_path(engine.plan, "running")
        running.write_bytes(b"y" * 500)
        assert sweep(store.root) == 1000
        assert running.exists()
        assert not left.exists()
    assert not store.root.exists()


# What follows kills a build right before each of its changes to the disk.

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def killed_before_change(request: BuildRequest, number: int) -> bool:
    """Build in a fork that is killed before its change `number`; whether it came so far."""
    child = os.fork()
    if child == 0:
        changes = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal changes
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
            if writes or event in _CHANGES:
                changes += 1
                if changes == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            build_engines(request)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.fixture
def forks() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("damaged", [False, True], ids=["new", "in place of a damaged one"])
def test_a_build_killed_before_any_change_leaves_no_engine_that_is_not_whole(
    request_: BuildRequest, builders: Pretending, forks: None, damaged: bool
) -> None:
    store, number = request_.store, 0
    content = planned(request_)[0].key.digest.encode() * 8
    while True:
        number += 1
        shutil.rmtree(store.root, ignore_errors=True)
        if damaged:
            (report,) = build_engines(request_)
            report.engine.plan.write_bytes(b"short")
        if not killed_before_change(request_, number):
            break
        whole(store, content)
        (report,) = build_engines(request_)  # finds it whole, or builds it
        whole(store, content)
        assert len(store.listed()) == 1
        assert store.listed()[0].problem is None
    assert number > 10, "changes were not noticed: this test proves nothing"
    assert not list(store.root.rglob(".*")), "what was killed has been cleared away"


def whole(store: EngineStore, content: bytes) -> None:
    for engine in store.listed():
        if engine.problem is None:
            assert bytes(store.read(engine)) == content
