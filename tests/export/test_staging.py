"""Where an export works: what it keeps, what it drops, and who may be in it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_exports import digests, staged

from lightfill.engine.bundle import Bundle
from lightfill.engine.errors import ExportError
from lightfill.engine.manifest import MANIFEST_NAME, Component, Manifest
from lightfill.export.staging import Record, Staging, file_entry, left_behind


class Stopped(Exception):
    """What ends an export before it is complete."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


@pytest.fixture
def partial(out: Path) -> Path:
    return out.with_name(".bundle.partial")


@pytest.fixture
def demo() -> Manifest:
    return Bundle.open().manifest


def make(staging: Staging, name: str, content: bytes = b"weights", key: str = "key") -> Record:
    """A finished component of one file in the directory of its own."""
    (staging.begin(name) / "weights.bin").write_bytes(content)
    component = Component(
        role="unet", graphs={"float32": f"{name}/a.onnx"}, weights=f"{name}/weights.bin"
    )
    return staging.finish(name, key, component)


@contextlib.contextmanager
def failing(out: Path) -> Iterator[Staging]:
    """An export that fails at the end of the block."""
    with contextlib.suppress(Stopped), Staging.of(out) as staging:
        yield staging
        raise Stopped


def fail_with(out: Path, *names: str) -> None:
    """A failed export, which has finished the components `names`."""
    with failing(out) as staging:
        for name in names:
            make(staging, name)


class TestWhatIsKept:
    def test_a_finished_component_is_found_by_the_next_run(self, out: Path) -> None:
        fail_with(out, "unet")
        with Staging.of(out) as staging:
            record = staging.finished("unet", "key")
            assert record is not None
            weights = file_entry(staging.bundle / "unet/weights.bin")
            assert record.files == {"unet/weights.bin": weights}
            assert weights.bytes == len(b"weights")

    def test_the_record_gives_back_what_was_recorded(self, out: Path) -> None:
        with failing(out) as staging:
            wanted = make(staging, "unet")
        with Staging.of(out) as staging:
            assert staging.finished("unet", "key") == wanted

    def test_one_made_from_something_else_is_removed(self, out: Path) -> None:
        fail_with(out, "unet")
        with Staging.of(out) as staging:
            assert staging.finished("unet", "another key") is None
            assert list(staging.bundle.iterdir()) == []
            assert staging.finished("unet", "key") is None

    @pytest.mark.parametrize("damage", ["altered", "longer", "gone", "one more"])
    def test_one_whose_files_changed_is_removed(
        self, out: Path, partial: Path, damage: str
    ) -> None:
        fail_with(out, "unet")
        file = partial / "bundle/unet/weights.bin"
        if damage == "gone":
            file.unlink()
        elif damage == "one more":
            file.with_name("more.bin").touch()
        else:
            file.write_bytes(b"weighty" if damage == "altered" else b"weights, weights")
        with Staging.of(out) as staging:
            assert staging.finished("unet", "key") is None
            assert list(staging.bundle.iterdir()) == []

    @pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff", b'{"key": 1}'])
    def test_a_damaged_record_is_none(self, out: Path, partial: Path, content: bytes) -> None:
        fail_with(out, "unet")
        (partial / "unet.json").write_bytes(content)
        with Staging.of(out) as staging:
            assert staging.finished("unet", "key") is None
            assert [path.name for path in staging.root.glob("*.json")] == []

    def test_making_one_again_replaces_it(self, out: Path) -> None:
        with Staging.of(out) as staging:
            make(staging, "unet", b"old", "old")
            make(staging, "unet", b"new", "new")
            assert staging.finished("unet", "new") is not None
            assert (staging.bundle / "unet/weights.bin").read_bytes() == b"new"


class TestWhatIsDropped:
    def test_nothing_is_left_after_a_success(self, out: Path) -> None:
        with Staging.of(out) as staging:
            make(staging, "unet")
        assert list(out.parent.iterdir()) == []

    def test_nothing_is_left_if_nothing_was_finished(self, out: Path) -> None:
        with failing(out) as staging:
            (staging.begin("unet") / "weights.bin").write_bytes(b"half")
        assert list(out.parent.iterdir()) == []

    def test_what_a_killed_run_was_at_is_gone_when_the_next_one_begins(
        self, out: Path, partial: Path
    ) -> None:
        fail_with(out, "unet")
        for stray in ("vae.making", "bundle/tokenizer", "bundle/vae"):
            (partial / stray).mkdir()
            (partial / stray / "file").touch()
        (partial / ".0123.partial").touch()
        (partial / "bundle" / MANIFEST_NAME).touch()
        with Staging.of(out):
            found = {path.relative_to(partial).as_posix() for path in partial.rglob("*")}
        kept = {".lock", "unet.json", "bundle", "bundle/unet", "bundle/unet/weights.bin"}
        assert found == kept

    def test_a_component_is_begun_in_an_empty_directory(self, out: Path) -> None:
        with Staging.of(out) as staging:
            (staging.begin("unet") / "left").touch()
            assert list(staging.begin("unet").iterdir()) == []

    def test_bytes_left_behind_are_counted(self, out: Path, partial: Path) -> None:
        assert left_behind(out) is None
        fail_with(out, "unet")
        assert left_behind(out) == len(b"weights") + (partial / "unet.json").stat().st_size


class TestPublishing:
    def test_all_that_is_staged_becomes_the_bundle(self, out: Path, demo: Manifest) -> None:
        with Staging.of(out) as staging:
            make(staging, "unet")
            (staging.bundle / "licences").mkdir()
            (staging.bundle / "licences" / "NOTICE.md").touch()
            staging.publish(demo)
        assert digests(out).keys() == {MANIFEST_NAME, "unet/weights.bin", "licences/NOTICE.md"}
        assert list(out.parent.iterdir()) == [out]

    def test_finished_components_it_does_not_list_are_left_out(
        self, out: Path, demo: Manifest
    ) -> None:
        fail_with(out, "unet-2step")
        with Staging.of(out) as staging:
            make(staging, "unet")
            staging.publish(demo)
        assert digests(out).keys() == {MANIFEST_NAME, "unet/weights.bin"}

    def test_something_that_appeared_in_its_place_meanwhile_is_not_touched(
        self, out: Path, demo: Manifest
    ) -> None:
        with failing(out) as staging:
            make(staging, "unet")
            out.mkdir()
            (out / "precious").touch()
            with pytest.raises(OSError, match="not empty"):
                staging.publish(demo)
        assert digests(out).keys() == {"precious"}
        assert staged(out) == {"unet"}

    def test_through_a_link_the_directory_it_names_is_made(
        self, out: Path, demo: Manifest, tmp_path: Path
    ) -> None:
        """Beside it, too: another disk could not be renamed to."""
        real = tmp_path / "disk" / "real"
        out.symlink_to(real)
        with Staging.of(out) as staging:
            assert staging.root.parent == real.parent
            make(staging, "unet")
            staging.publish(demo)
        assert out.is_symlink()
        assert digests(real).keys() == {MANIFEST_NAME, "unet/weights.bin"}
        assert list(real.parent.iterdir()) == [real]


class TestMerging:
    @pytest.fixture
    def existing(self, out: Path) -> Path:
        (out / "unet").mkdir(parents=True)
        (out / "unet" / "weights.bin").write_bytes(b"old")
        (out / MANIFEST_NAME).write_bytes(b"old")
        return out

    def test_components_and_files_are_moved_and_the_manifest_comes_last(
        self, existing: Path, demo: Manifest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moved: list[str] = []
        for name in ("rename", "replace"):
            real = getattr(Path, name)

            def spied(self: Path, target: Path, real: object = real) -> object:
                if Path(target).is_relative_to(existing):
                    moved.append(Path(target).relative_to(existing).as_posix())
                return real(self, target)  # type: ignore[operator]

            monkeypatch.setattr(Path, name, spied)
        with Staging.of(existing) as staging:
            make(staging, "unet-8step")
            (staging.bundle / "licences" / "who").mkdir(parents=True)
            (staging.bundle / "licences" / "who" / "LICENSE").touch()
            staging.merge(demo, ["unet-8step"])
        assert moved == ["unet-8step", "licences/who/LICENSE", MANIFEST_NAME]
        weights = {"unet/weights.bin", "unet-8step/weights.bin"}
        assert digests(existing).keys() == {*moved[1:], *weights}
        assert (existing / "unet/weights.bin").read_bytes() == b"old"
        assert list(existing.parent.iterdir()) == [existing]

    def test_a_component_of_another_request_is_not_moved(
        self, existing: Path, demo: Manifest
    ) -> None:
        fail_with(existing, "unet-2step")
        with Staging.of(existing) as staging:
            make(staging, "unet-8step")
            staging.merge(demo, ["unet-8step"])
        assert {path.name for path in existing.iterdir()} == {"unet", "unet-8step", MANIFEST_NAME}

    def test_what_a_killed_run_had_moved_is_taken_back(self, existing: Path, partial: Path) -> None:
        fail_with(existing, "unet-8step", "unet-2step")
        (partial / "bundle" / "unet-8step").rename(existing / "unet-8step")
        with failing(existing) as staging:
            staging.adopt({"unet"})
            assert not (existing / "unet-8step").exists()
            assert staging.finished("unet-8step", "key") is not None
        assert staged(existing) == {"unet-2step", "unet-8step"}

    def test_what_the_bundle_lists_is_not_taken(self, existing: Path, partial: Path) -> None:
        fail_with(existing, "unet")
        (partial / "bundle" / "unet" / "weights.bin").unlink()
        (partial / "bundle" / "unet").rmdir()
        with Staging.of(existing) as staging:
            staging.adopt({"unet"})
            assert (existing / "unet/weights.bin").read_bytes() == b"old"


class TestTheLock:
    def test_a_second_export_is_refused_and_takes_nothing_away(self, out: Path) -> None:
        with failing(out) as staging:
            making = staging.begin("unet")
            with pytest.raises(ExportError) as refused, Staging.of(out):
                pass
            assert str(refused.value) == (
                f"another export is writing {out}; wait for it, or choose another --out"
            )
            assert making.is_dir()
            make(staging, "unet")
        assert staged(out) == {"unet"}

    def test_two_names_of_one_place_are_one_place(self, out: Path) -> None:
        alias = out.with_name("alias")
        alias.symlink_to(out)
        with Staging.of(out), pytest.raises(ExportError, match="another"), Staging.of(alias):
            pass

    def test_the_directory_that_one_works_in_is_a_place_to_add_to(
        self, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out.mkdir()
        monkeypatch.chdir(out)
        with Staging.of(Path()) as staging:
            assert staging.root == Path(os.path.realpath(out)).with_name(".bundle.partial")

    def test_it_is_free_after_success_and_after_failure(self, out: Path) -> None:
        fail_with(out, "unet")
        with Staging.of(out):
            pass
        with Staging.of(out):
            pass
