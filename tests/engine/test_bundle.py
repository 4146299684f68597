"""Opening a bundle: every kind of damage is found and named, and nothing is read twice."""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightfill.engine.bundle import DEMO_BUNDLE, Bundle
from lightfill.engine.errors import BundleCorrupt, BundleError, BundleNotFound, ComponentMissing
from lightfill.engine.manifest import MANIFEST_NAME

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own: no bundle has been verified yet."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    """A copy of the embedded bundle that a test may damage."""
    return Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose contents have been hashed, in order."""
    names: list[str] = []
    real = hashlib.file_digest

    def counting(file: Any, *arguments: Any) -> Any:
        names.append(Path(file.name).name)
        return real(file, *arguments)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return names


def change_manifest(root: Path, change: Change) -> None:
    path = root / MANIFEST_NAME
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(root: Path, error: type[BundleError] = BundleCorrupt, **options: Any) -> str:
    """The message of the refusal, whose form is checked here once for all."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(root, **options)
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message, "says what to do"
    return message


def flip_a_byte(path: Path) -> None:
    """Damage that neither the size nor (restored) the modification time gives away."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_embedded_bundle_is_sound_and_the_default(cache: Path) -> None:
    bundle = Bundle.open()
    assert bundle.root == DEMO_BUNDLE.resolve()
    assert bundle.manifest.name == "lightfill-demo"
    listed = sum(path.stat().st_size for path in DEMO_BUNDLE.rglob("*") if path.is_file())
    assert bundle.bytes_on_disk == listed - (DEMO_BUNDLE / MANIFEST_NAME).stat().st_size


def test_copy_opens_by_path_and_by_string(root: Path) -> None:
    assert Bundle.open(root).manifest == Bundle.open(str(root)).manifest


def test_directory_without_a_manifest_is_no_bundle(root: Path) -> None:
    (root / MANIFEST_NAME).unlink()
    message = refusal(root, BundleNotFound)
    assert str(root) in message
    assert "lightfill export" in message


@pytest.mark.parametrize("name", ["nowhere", f"bundle/{MANIFEST_NAME}"])
def test_no_directory_is_no_bundle(root: Path, name: str) -> None:
    assert name in refusal(root.parent / name, BundleNotFound)


def test_manifest_that_is_a_directory_is_no_bundle(root: Path) -> None:
    (root / MANIFEST_NAME).unlink()
    (root / MANIFEST_NAME).mkdir()
    assert "cannot be read" in refusal(root, BundleNotFound)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b'{"a": 1,}', b"\xff\xfe\x00", b"[" * 100_000],
    ids=["empty", "unclosed", "comma", "not text", "nested"],
)
def test_manifest_that_is_not_json(root: Path, text: bytes) -> None:
    (root / MANIFEST_NAME).write_bytes(text)
    assert f"{MANIFEST_NAME} is not JSON" in refusal(root)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_other_schema_version(root: Path, version: Any) -> None:
    change_manifest(root, lambda manifest: manifest.update(schema_version=version))
    message = refusal(root)
    assert f"schema version {version!r}" in message
    assert "reads 1" in message


@pytest.mark.parametrize("text", [b"[]", b"null", b'"text"', b"{}"])
def test_json_that_is_no_manifest(root: Path, text: bytes) -> None:
    (root / MANIFEST_NAME).write_bytes(text)
    assert "schema version None" in refusal(root)


def without(manifest: dict[str, Any], *path: str) -> None:
    *parents, last = path
    for key in parents:
        manifest = manifest[key]
    del manifest[last]


MALFORMED: dict[str, tuple[Change, str]] = {
    "unknown field": (lambda m: m.update(colour="red"), "colour"),
    "unknown nested field": (lambda m: m["vae"].update(shift=1), "vae.shift"),
    "missing field": (lambda m: without(m, "scheduler"), "scheduler"),
    "wrong type": (lambda m: m.update(natural_size="big"), "natural_size"),
    "no step counts": (lambda m: m.update(steps={}), "steps"),
    "unknown prediction": (lambda m: m["steps"]["4"].update(prediction="x0"), "prediction"),
    "unknown role": (lambda m: m["components"]["unet"].update(role="painter"), "role"),
    "leading spacing": (lambda m: m["scheduler"].update(timestep_spacing="leading"), "spacing"),
    "zero scaling factor": (lambda m: m["vae"].update(scaling_factor=0), "scaling_factor"),
    "bad hash": (lambda m: m["files"]["unet/weights.bin"].update(sha256="abc"), "sha256"),
    "negative size": (lambda m: m["files"]["unet/weights.bin"].update(bytes=-1), "bytes"),
    "no vae decoder": (lambda m: without(m, "components", "vae_decoder"), "vae_decoder"),
    "steps without unet": (
        lambda m: m["steps"]["8"].update(component="unet-8step"),
        "steps 8 name 'unet-8step'",
    ),
    "steps served by a vae": (
        lambda m: m["steps"]["8"].update(component="vae_encoder"),
        "steps 8 name 'vae_encoder'",
    ),
    "unlisted weights": (lambda m: without(m, "files", "unet/weights.bin"), "unet/weights.bin"),
    "unlisted licence": (lambda m: without(m, "files", m["licences"][0]["file"]), "licences/"),
    "encoder without tokens": (
        lambda m: m["components"]["text_encoder"].update(token_embedding=None),
        "token_embedding",
    ),
    "no tokenizer": (lambda m: without(m, "tokenizers", "text_encoder_2"), "text_encoder_2"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_manifest_names_the_place(root: Path, kind: str) -> None:
    change, place = MALFORMED[kind]
    change_manifest(root, change)
    message = refusal(root)
    assert "is malformed" in message
    assert place in message


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "unet/../../secret", "unet\\..\\secret", "", "."]
)
@pytest.mark.parametrize("place", ["weights", "graph", "listing", "licence"])
def test_path_that_leaves_the_bundle(root: Path, path: str, place: str) -> None:
    (root.parent / "secret").write_text("not yours")
    entry = {"bytes": 9, "sha256": hashlib.sha256(b"not yours").hexdigest()}

    def change(manifest: dict[str, Any]) -> None:
        unet = manifest["components"]["unet"]
        if place == "weights":
            unet["weights"] = path
        elif place == "graph":
            unet["graphs"]["float32"] = path
        elif place == "licence":
            manifest["licences"][0]["file"] = path
        manifest["files"][path] = entry

    change_manifest(root, change)
    assert "not a relative path inside the bundle" in refusal(root)


def test_missing_file_is_named(root: Path) -> None:
    (root / "unet/weights.bin").unlink()
    message = refusal(root)
    assert "unet/weights.bin is missing" in message
    assert "export the bundle again" in message


def test_unreadable_file_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hashlib, "file_digest", fail)
    assert "cannot be read: Permission denied" in refusal(root)


@pytest.mark.parametrize("change", [-1, 1, -1_000_000_000])
def test_resized_file_is_named_with_both_sizes(root: Path, change: int) -> None:
    path = root / "vae_decoder/weights.bin"
    size = path.stat().st_size
    os.truncate(path, max(size + change, 0))
    message = refusal(root)
    assert f"vae_decoder/weights.bin has {path.stat().st_size} bytes" in message
    assert f"its manifest says {size}" in message


@pytest.mark.parametrize("name", ["unet/weights.bin", "tokenizer/tokenizer.json"])
def test_flipped_byte_is_found_on_first_opening(root: Path, name: str) -> None:
    flip_a_byte(root / name)
    message = refusal(root)
    assert f"{name} differs from its manifest" in message
    refusal(root)  # and again: a failed check leaves no stamp


def test_second_opening_reads_no_file(root: Path, files_read: list[str]) -> None:
    listed = len(Bundle.open(root).manifest.files)
    assert len(files_read) == listed
    Bundle.open(root)
    assert len(files_read) == listed


def test_check_reads_everything_again_and_finds_hidden_damage(
    root: Path, files_read: list[str]
) -> None:
    Bundle.open(root)
    flip_a_byte(root / "unet/weights.bin")
    Bundle.open(root)  # size and time are as stamped: not found, by design
    assert "unet/weights.bin differs" in refusal(root, check=True)


def test_touched_file_is_read_again(root: Path, files_read: list[str]) -> None:
    Bundle.open(root)
    path = root / "unet/weights.bin"
    flip_a_byte(path)
    os.utime(path)
    assert "unet/weights.bin differs" in refusal(root)


def test_changed_manifest_is_checked_again(root: Path, files_read: list[str]) -> None:
    Bundle.open(root)
    first = len(files_read)
    change_manifest(root, lambda manifest: manifest.update(name="renamed"))
    assert Bundle.open(root).manifest.name == "renamed"
    assert len(files_read) == 2 * first


def test_copy_elsewhere_is_checked_for_itself(root: Path, files_read: list[str]) -> None:
    Bundle.open(root)
    first = len(files_read)
    Bundle.open(Path(shutil.copytree(root, root.parent / "other")))
    assert len(files_read) == 2 * first


@pytest.mark.parametrize("obstacle", ["file in the way", "garbage stamp"])
def test_unusable_cache_only_costs_time(
    root: Path, cache: Path, files_read: list[str], obstacle: str
) -> None:
    if obstacle == "file in the way":
        cache.write_text("no directory")
    else:
        Bundle.open(root)
        for stamp in cache.rglob("*.json"):
            stamp.write_bytes(b"\xffgarbage")
        files_read.clear()
    assert Bundle.open(root).manifest.name == "lightfill-demo"
    assert len(files_read) == len(Bundle.open(root).manifest.files)


def test_the_command_that_adds_a_step_count_survives_a_shell(root: Path) -> None:
    spaced = root.rename(root.with_name("my bundle; rm"))
    with pytest.raises(ComponentMissing) as missing:
        Bundle.open(spaced).unet(3)
    command = str(missing.value).rpartition("with `")[2].rstrip("`")
    assert shlex.split(command) == ["lightfill", "export", "--out", str(spaced), "--steps", "3"]


def test_missing_component_and_step_count_say_what_there_is(cache: Path) -> None:
    bundle = Bundle.open()
    with pytest.raises(ComponentMissing, match=r"no component 'upscaler'; it has text_encoder, "):
        bundle.component("upscaler")
    with pytest.raises(ComponentMissing, match=r"no UNet for 3 steps \(it has 1, 2, 4, 8\); .*3`$"):
        bundle.unet(3)
    with pytest.raises(ComponentMissing, match="is no text encoder"):
        bundle.token_embedding("unet")


def test_missing_arithmetic_says_how_to_get_it(root: Path) -> None:
    change_manifest(root, lambda m: without(m, "components", "unet", "graphs", "float16"))
    bundle = Bundle.open(root)
    assert bundle.graph("unet", "float32") == root.resolve() / "unet/float32.onnx"
    with pytest.raises(ComponentMissing, match=r"unet in float32 only; .* --arithmetic float16`$"):
        bundle.graph("unet", "float16")


def test_token_table_is_memory_mapped(cache: Path) -> None:
    table = Bundle.open().token_embedding("text_encoder")
    assert isinstance(table, np.memmap)
    assert table.shape == (49408, 32)
