"""Quantized UNets on disk: found by what they were made from, whole or refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from lightfill.engine.bundle import DEMO_BUNDLE, Bundle
from lightfill.engine.errors import BundleCorrupt, ComponentMissing
from lightfill.engine.quantized_store import QuantizedStore

ABOUT = {
    "made_with": {"nncf": "3.4.0"}, "size": [64, 64], "calibrated_on": 2, "measured_on": 1,
    "step_psnr_db": {"999": 40.0}, "picture_psnr_db": 35.0,
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> QuantizedStore:
    return QuantizedStore(Bundle.open(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")))


def written(directory: Path, weights: bytes = b"weights") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "unet.xml").write_bytes(b"<net/>")
    (directory / "unet.bin").write_bytes(weights)
    return directory / "unet.xml"


@pytest.fixture
def kept(store: QuantizedStore) -> Path:
    store.path("unet").parent.mkdir()
    store.keep("unet", written(store.path("unet").parent / ".new"), ABOUT)
    return store.path("unet")


def test_what_was_kept_is_found_whole(store: QuantizedStore, kept: Path) -> None:
    assert store.checked("unet") == kept
    record = store.require("unet")
    assert record == store.record("unet")
    assert (record.picture_psnr_db, record.size) == (35.0, (64, 64))
    assert {entry.bytes for entry in record.files.values()} == {6, 7}
    assert kept.with_suffix(".bin").read_bytes() == b"weights"


def test_nothing_there_names_the_command(store: QuantizedStore) -> None:
    with pytest.raises(ComponentMissing, match=r"has no int8 unet; make it with `lightfill quant"):
        store.require("unet")


def test_another_unet_under_the_same_name_has_another_place(store: QuantizedStore) -> None:
    manifest = store.bundle.manifest
    files = dict(manifest.files)
    weights = manifest.components["unet"].weights
    files[weights] = files[weights].model_copy(update={"sha256": "0" * 64})
    other = Bundle(store.bundle.root, manifest.model_copy(update={"files": files}))
    assert QuantizedStore(other).path("unet") != store.path("unet")


@pytest.mark.parametrize("killed_after", ["nothing", "network", "weights"])
def test_a_keep_that_was_killed_leaves_nothing_that_loads(
    store: QuantizedStore, kept: Path, killed_after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ["nothing", "network", "weights"].index(killed_after)
    real = Path.replace

    def dying(path: Path, target: Path) -> Path:
        nonlocal done
        if not done:
            raise KeyboardInterrupt
        done -= 1
        return real(path, target)

    new = written(kept.parent / ".newer", b"other weights")
    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        store.keep("unet", new, ABOUT)
    with pytest.raises(ComponentMissing):
        store.require("unet")


def test_a_second_network_replaces_the_first(store: QuantizedStore, kept: Path) -> None:
    store.keep("unet", written(kept.parent / ".newer", b"other"), ABOUT | {"picture_psnr_db": 50})
    assert store.checked("unet").with_suffix(".bin").read_bytes() == b"other"


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_missing_and_shortened_files_are_refused_before_they_are_read(
    store: QuantizedStore, kept: Path, suffix: str
) -> None:
    file = kept.with_suffix(suffix)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleCorrupt, match=r"missing or of another length; make it again with `"):
        store.require("unet")
    file.unlink()
    with pytest.raises(BundleCorrupt, match="missing or of another length"):
        store.record("unet")


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_one_changed_byte_is_refused_before_it_loads(
    store: QuantizedStore, kept: Path, suffix: str
) -> None:
    file = kept.with_suffix(suffix)
    file.write_bytes(b"X" + file.read_bytes()[1:])
    with pytest.raises(BundleCorrupt, match=rf"{file.name} differs from its record; make it again"):
        store.checked("unet")


def test_unchanged_files_are_read_once_by_a_process(
    store: QuantizedStore, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.checked("unet")
    monkeypatch.setattr(hashlib, "file_digest", None)  # reading would raise
    assert store.checked("unet") == kept


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "malformed"), ("{}", "malformed"), (json.dumps({**ABOUT, "more": 1}), "malformed")],
)
def test_malformed_records_are_refused(
    store: QuantizedStore, kept: Path, text: str, words: str
) -> None:
    kept.with_suffix(".json").write_text(text)
    with pytest.raises(BundleCorrupt, match=words):
        store.require("unet")


def test_a_record_that_cannot_be_read_is_refused(store: QuantizedStore, kept: Path) -> None:
    kept.with_suffix(".json").unlink()
    kept.with_suffix(".json").mkdir()
    with pytest.raises(BundleCorrupt, match="cannot be read"):
        store.require("unet")
