"""The store: what is found, what is refused and why, and what every refusal says to do."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from engine_bundles import copied_demo, key_of, put

from lightfill.engine import engine_store
from lightfill.engine.bundle import Bundle
from lightfill.engine.engine_key import sizes_for
from lightfill.engine.engine_record import EngineRecord, Runtime
from lightfill.engine.engine_store import EngineStore
from lightfill.engine.errors import EngineCorrupt, EngineNotBuilt, EngineStale

HERE = Runtime("rtx", "1.7.1.116", "sm89", "NVIDIA L4")
H100 = Runtime("tensorrt", "11.4.0.106", "sm90", "NVIDIA H100 80GB HBM3")
SIZES = sizes_for("unet", 512, 512)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return copied_demo(tmp_path)


@pytest.fixture
def store(bundle: Bundle) -> EngineStore:
    return EngineStore.of(bundle)


def edited(plan: Path, **changes: object) -> None:
    record = plan.with_suffix(".json")
    record.write_text(json.dumps(json.loads(record.read_text()) | changes))


def test_engines_lie_beside_the_bundle_by_flavour_version_and_gpu(
    store: EngineStore, tmp_path: Path
) -> None:
    key = key_of(store.bundle)
    assert store.path(key).relative_to(store.bundle.root).as_posix() == (
        f"engines/rtx-1.7.1.116/sm89/unet-512x512-b1-{key.digest[:12]}.plan"
    )
    key = key_of(
        store.bundle, "text_encoder", flavour="tensorrt", targets=("sm90 NVIDIA H100 80GB/HBM3",)
    )
    elsewhere = EngineStore.of(store.bundle, tmp_path / "engines")
    assert elsewhere.path(key).relative_to(tmp_path).as_posix() == (
        "engines/tensorrt-1.7.1.116/sm90-NVIDIA-H100-80GB-HBM3/"
        f"text_encoder-any-b1-{key.digest[:12]}.plan"
    )


def test_nothing_is_found_where_nothing_is(store: EngineStore) -> None:
    assert store.listed() == []
    assert store.find(key_of(store.bundle)) is None


def test_an_engine_is_found_by_exactly_its_key(store: EngineStore) -> None:
    key = key_of(store.bundle)
    plan = put(store, key)
    found = store.find(key)
    assert found is not None
    assert (found.plan, found.problem) == (plan, None)
    assert found.record is not None
    assert found.record.key == key
    assert store.find(key_of(store.bundle, optimization_level=1)) is None
    assert [each.plan for each in store.listed()] == [plan]


def lost_record(plan: Path) -> None:
    plan.with_suffix(".json").unlink()


def lost_plan(plan: Path) -> None:
    plan.unlink()


def cut_off(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def no_json(plan: Path) -> None:
    plan.with_suffix(".json").write_text("{")


def wrong_digest(plan: Path) -> None:
    edited(plan, digest="0" * 64)


def edited_key(plan: Path) -> None:
    key = json.loads(plan.with_suffix(".json").read_text())["key"]
    edited(plan, key=key | {"version": "1.8"})


def unknown_field(plan: Path) -> None:
    edited(plan, more=1)


DAMAGES: dict[Callable[[Path], None], str] = {
    lost_record: "it has no record: its build did not finish",
    lost_plan: "the plan cannot be read",
    cut_off: "the plan has 5 bytes, 6 were written",
    no_json: "its record is malformed",
    wrong_digest: "its record was edited",
    edited_key: "its record was edited",
    unknown_field: "its record is malformed",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_engine_is_listed_with_the_reason_and_loaded_by_nobody(
    store: EngineStore, damage: Callable[[Path], None]
) -> None:
    plan = put(store, key_of(store.bundle))
    damage(plan)
    (found,) = store.listed()
    assert found.problem is not None
    assert DAMAGES[damage] in found.problem
    assert store.why_not(found, HERE) == found.problem
    with pytest.raises((EngineCorrupt, EngineNotBuilt), match="lightfill build"):
        store.serving("unet", SIZES, HERE)
    with pytest.raises(EngineCorrupt, match="--prune` and build it again with `lightfill build"):
        store.read(found)


def test_what_the_bundle_no_longer_holds_is_stale(store: EngineStore) -> None:
    put(store, key_of(store.bundle, graph_sha256="0" * 64))
    put(store, key_of(store.bundle, weights_sha256="0" * 64))
    put(store, key_of(store.bundle).model_copy(update={"component": "unet-4step"}))
    problems = {found.problem for found in store.listed()}
    assert problems == {
        "the bundle's unet has changed since it was built",
        "the bundle has no float16 graph of unet-4step",
    }
    with pytest.raises(EngineStale, match="unet for 512x512 cannot be used: the bundle's unet has"):
        store.serving("unet", SIZES, HERE)


def test_the_newest_engine_that_fits_serves(store: EngineStore) -> None:
    old = put(store, key_of(store.bundle), made=datetime(2026, 1, 1, tzinfo=UTC))
    assert store.serving("unet", SIZES, HERE).plan == old
    new = put(
        store,
        key_of(store.bundle, optimization_level=5),
        made=datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert store.serving("unet", SIZES, HERE).plan == new
    cut_off(new)
    assert store.serving("unet", SIZES, HERE).plan == old


def test_a_size_that_is_not_built_is_an_error_with_those_that_are_and_the_command(
    store: EngineStore,
) -> None:
    put(store, key_of(store.bundle))
    put(store, key_of(store.bundle, sizes=sizes_for("unet", 1024, 576, 2)))
    put(store, key_of(store.bundle, sizes=sizes_for("unet", 64, 64), targets=("sm75",)))
    with pytest.raises(EngineNotBuilt) as raised:
        store.serving("unet", sizes_for("unet", 768, 1024, 4), HERE)
    root = store.bundle.root
    assert str(raised.value) == (
        "there is no rtx engine of unet for 768x1024, batch 4 (built: 1024x576, batch 2; 512x512); "
        f"build it with `lightfill build {root} --image-size 768x1024 --steps 1,2,4,8 --batch 4 "
        "--device rtx --gpu sm89`"
    )


def test_where_nothing_is_built_the_error_says_so(store: EngineStore) -> None:
    with pytest.raises(EngineNotBuilt, match=r"none is built for this machine.*--device tensorrt`"):
        store.serving("text_encoder", {"batch": 1}, H100)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"targets": ("sm120",)}, "built for sm120, this GPU is sm89"),
        ({"version": "1.6"}, "built by TensorRT 1.6, installed is 1.7.1.116"),
        ({"platform": "windows-amd64"}, "built on windows-amd64, this is "),
        ({"flavour": "tensorrt"}, "built for the device tensorrt, not rtx"),
    ],
)
def test_an_engine_for_something_else_is_refused_with_what_it_is_for(
    store: EngineStore, changes: dict[str, object], reason: str
) -> None:
    put(store, key_of(store.bundle, **changes))
    with pytest.raises(EngineStale) as raised:
        store.serving("unet", SIZES, HERE)
    assert f"cannot be used: {reason}" in str(raised.value)
    assert str(raised.value).endswith("--device rtx --gpu sm89`")


def test_tensorrt_engines_are_for_one_model_of_gpu(store: EngineStore) -> None:
    key = key_of(store.bundle, flavour="tensorrt", version="11.4.0.106", targets=(H100.key_target,))
    plan = put(store, key)
    assert store.serving("unet", SIZES, H100).plan == plan
    other = Runtime("tensorrt", "11.4.0.106", "sm90", "NVIDIA H200")
    with pytest.raises(EngineStale, match="sm90 NVIDIA H100 80GB HBM3, this GPU is sm90 NVIDIA H2"):
        store.serving("unet", SIZES, other)


def test_an_engine_for_several_gpus_serves_each(store: EngineStore) -> None:
    plan = put(store, key_of(store.bundle, targets=("sm120", "sm89")))
    assert plan.parent.name == "sm120+sm89"
    assert store.serving("unet", SIZES, HERE).plan == plan


def test_a_plan_is_read_whole_and_mapped(store: EngineStore) -> None:
    put(store, key_of(store.bundle), b"x" * 100_000)
    content = store.read(store.listed()[0])
    assert bytes(content) == b"x" * 100_000
    assert content.readonly


def test_a_plan_of_the_right_length_with_other_bytes_is_refused(store: EngineStore) -> None:
    plan = put(store, key_of(store.bundle), b"good plan")
    plan.write_bytes(b"evil plan")
    (found,) = store.listed()
    assert found.problem is None  # nothing was read yet
    with pytest.raises(EngineCorrupt, match=r"cannot be loaded: its SHA-256 is [0-9a-f]{12}\.\.\."):
        store.read(found)


def test_a_plan_is_hashed_once_and_again_when_it_changes(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = put(store, key_of(store.bundle), b"good plan")
    hashed: list[int] = []
    sha256 = engine_store.hashlib.sha256

    def counting(data: bytes = b"") -> object:
        hashed.append(len(data))
        return sha256(data)

    monkeypatch.setattr(engine_store.hashlib, "sha256", counting)
    for _ in range(3):
        store.read(store.listed()[0])
    assert hashed.count(len(b"good plan")) == 1
    other = plan.with_name("other")
    other.write_bytes(b"evil plan")
    other.replace(plan)
    with pytest.raises(EngineCorrupt):
        store.read(store.listed()[0])


def test_without_a_writable_cache_a_plan_is_read_all_the_same(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    put(store, key_of(store.bundle))
    assert bytes(store.read(store.listed()[0])) == b"a plan"


def test_pruning_removes_plans_records_and_empty_directories(store: EngineStore) -> None:
    plans = [put(store, key_of(store.bundle, targets=(target,))) for target in ("sm89", "sm120")]
    first, second = (
        store.find(key_of(store.bundle, targets=(each,))) for each in ("sm89", "sm120")
    )
    assert first is not None
    assert second is not None
    size = sum(path.stat().st_size for path in plans[0].parent.iterdir())
    assert store.prune([first]) == size
    assert not plans[0].parent.exists()
    assert plans[1].exists()
    store.prune([second])
    assert not store.root.exists()


def test_a_command_names_steps_batch_directory_and_quotes_them(tmp_path: Path) -> None:
    bundle = copied_demo(tmp_path / "my models")
    store = EngineStore.of(bundle, tmp_path / "engines")
    command = store.build_command("vae_decoder", sizes_for("vae_decoder", 512, 64, 2))
    assert command == (
        f"lightfill build '{bundle.root}' --image-size 512x64 --batch 2 --engines "
        f"{tmp_path / 'engines'}"
    )
    command = store.build_command("text_encoder", {"batch": 1}, H100)
    assert command.startswith(f"lightfill build '{bundle.root}' --image-size 256x256 --device te")


def test_a_record_keeps_what_it_was_given(store: EngineStore) -> None:
    plan = put(store, key_of(store.bundle))
    text = plan.with_suffix(".json").read_text()
    record = EngineRecord.model_validate_json(text)
    assert record.model_dump_json() == text
    assert record.digest == record.key.digest
