"""Weights travel with their licences, and with a note of what was done to them."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tiny_exports import digests

from lightfill.engine.manifest import AppliedLora, Licence, Source
from lightfill.export.architecture import build
from lightfill.export.licences import write_licences, write_notice
from lightfill.export.part import Part
from lightfill.export.request import VAE_FP16_FIX
from lightfill.export.synthetic import synthetic_configs
from lightfill.export.tensors import SyntheticWeights

VAE = VAE_FP16_FIX.partition("@")[0]


@dataclass
class Texts:
    """A repository of these files, as one of the hub is."""

    name: str
    folder: Path
    revision: str | None = "0123abc"
    fetched: list[str] = field(default_factory=list)

    def files(self) -> frozenset[str]:
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return frozenset(path.relative_to(self.folder).as_posix() for path in paths)

    def fetch(self, name: str) -> Path:
        self.fetched.append(name)
        return self.folder / name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def part() -> Part:
    config = synthetic_configs("tiny")["text_encoder"]
    weights = SyntheticWeights(build("text_encoder", config, "tiny").shapes, "tiny")
    source = Source(checkpoint="owner/model", revision="0123abc")
    return Part("text_encoder", "text_encoder", config, weights, source)


def repository(tmp_path: Path, name: str, **files: str) -> Texts:
    """`name` with files, whose names are written LICENSE_md for LICENSE.md."""
    folder = tmp_path / f"repository-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    for file, text in files.items():
        (folder / file.replace("_", ".")).write_text(text)
    return Texts(name, folder)


def written(root: Path, *sources: Texts, known: dict[str, Path] | None = None) -> list[str]:
    entries = write_licences(root, sources, known)
    return [entry.file for entry in entries]


class TestTexts:
    def test_all_of_the_root_travel_and_no_weights_are_fetched(
        self, tmp_path: Path, root: Path
    ) -> None:
        texts = {"LICENSE_md": "a", "license-2_txt": "b", "NOTICE": "c", "README_md": "d"}
        source = repository(tmp_path, "owner/model", **texts, PROVENANCE_md="e")
        (source.folder / "LICENSE.safetensors").write_text("weights")
        (source.folder / "unet").mkdir()
        (source.folder / "unet" / "LICENSE").write_text("of a part")
        entries = write_licences(root, [source])
        names = ["LICENSE.md", "NOTICE", "PROVENANCE.md", "README.md", "license-2.txt"]
        assert entries == [
            Licence(
                file=f"licences/owner--model/{name}", covers="weights and files from owner/model"
            )
            for name in names
        ]
        assert digests(root).keys() == {entry.file for entry in entries}
        assert sorted(source.fetched) == sorted(names)
        assert (root / "licences/owner--model/NOTICE").read_text() == "c"

    @pytest.mark.parametrize("files", [{}, {"README_md": "a model"}, {"NOTICE": "of something"}])
    def test_without_a_licence_there_is_a_warning(
        self, tmp_path: Path, root: Path, files: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        assert len(written(root, repository(tmp_path, "owner/model", **files))) == len(files)
        (record,) = caplog.records
        assert record.getMessage() == (
            "owner/model carries no licence text; add one before sharing the bundle"
        )

    @pytest.mark.parametrize("name", ["LICENSE", "LICENCE_txt", "license_md", "PROVENANCE_md"])
    def test_with_one_there_is_none(
        self, tmp_path: Path, root: Path, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        written(root, repository(tmp_path, "owner/model", **{name: "do as you like"}))
        assert not caplog.records

    @pytest.mark.parametrize("files", [{}, {"README_md": "Licence: MIT"}])
    def test_the_default_vae_s_which_it_only_declares_is_added(
        self, tmp_path: Path, root: Path, files: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        found = written(root, repository(tmp_path, VAE, **files))
        folder = "licences/" + VAE.replace("/", "--")
        assert f"{folder}/LICENSE-sdxl-vae-fp16-fix.txt" in found
        assert len(found) == 1 + len(files)
        text = (root / found[-1]).read_text()
        assert "MIT License" in text
        assert "Permission is hereby granted" in text
        assert not caplog.records

    def test_its_own_is_taken_once_it_has_one(self, tmp_path: Path, root: Path) -> None:
        (file,) = written(root, repository(tmp_path, VAE, LICENSE="its own"))
        assert (root / file).read_text() == "its own"


class TestPlaces:
    @pytest.mark.parametrize(
        "name",
        [
            "..",
            ".",
            "../..",
            "../../outside",
            "/etc",
            "a/../../b",
            "a\\..\\b",
            "~",
            "C:\\x",
            "a\nb",
        ],
    )
    def test_no_name_leads_out_of_the_directory(
        self, tmp_path: Path, root: Path, name: str
    ) -> None:
        before = digests(tmp_path).keys()
        source = repository(tmp_path, name, LICENSE="text")
        (file,) = written(root, source)
        outside = digests(tmp_path).keys() - before - {f"{source.folder.name}/LICENSE"}
        assert outside == {f"bundle/{file}"}
        assert Path(file).parts[0] == "licences"
        assert len(Path(file).parts) == 3
        assert not Path(file).parts[1].startswith(".")

    def test_sources_whose_names_look_alike_keep_their_own_texts(
        self, tmp_path: Path, root: Path
    ) -> None:
        names = ["a/b", "a--b", "a//b"]
        sources = [repository(tmp_path, name, LICENSE=name) for name in names]
        found = written(root, *sources)
        assert [(root / file).read_text() for file in found] == names
        assert len(set(found)) == 3

    def test_equal_texts_at_one_place_are_listed_once(self, tmp_path: Path, root: Path) -> None:
        sources = [repository(tmp_path, name, LICENSE="same") for name in ("a/b", "a--b")]
        assert written(root, *sources) == ["licences/a--b/LICENSE"]


class TestAdding:
    def test_what_the_bundle_has_is_neither_written_nor_listed_again(
        self, tmp_path: Path, root: Path
    ) -> None:
        source = repository(tmp_path, "a/b", LICENSE="text")
        (file,) = written(root, source)
        staging = tmp_path / "staging"
        assert written(staging, source, known={file: root / file}) == []
        assert not staging.exists()

    def test_another_text_of_a_source_of_that_name_gets_a_place_of_its_own(
        self, tmp_path: Path, root: Path
    ) -> None:
        (file,) = written(root, repository(tmp_path, "a/b", LICENSE="old"))
        staging = tmp_path / "staging"
        other = repository(tmp_path, "a/b", LICENSE="new")
        assert written(staging, other, known={file: root / file}) == ["licences/a--b-2/LICENSE"]
        assert (root / file).read_text() == "old"


class TestNotice:
    def row(self, root: Path, part: Part, **changes: object) -> str:
        changed = dataclasses.replace(part, **changes)  # type: ignore[arg-type]
        entry = write_notice(root, [part, changed], "NOTICE-more.md")
        assert entry == Licence(
            file="licences/NOTICE-more.md", covers="what was converted, and from where"
        )
        *text, first, last = (root / entry.file).read_text().splitlines()
        assert text[0] == "# Notice"
        assert first == "| text_encoder | owner/model | 0123abc | converted to ONNX |"
        return last

    def test_says_what_was_converted_from_what(self, root: Path, part: Part) -> None:
        local = Source(checkpoint="folder")
        found = self.row(root, part, name="unet-4step", source=local)
        assert found == "| unet-4step | folder | - | converted to ONNX |"

    def test_names_the_loras_that_were_merged(self, root: Path, part: Part) -> None:
        loras = tuple(
            AppliedLora(file=file, sha256="0" * 64, scale=scale)
            for file, scale in (("style.safetensors", 1.0), ("more.safetensors", -0.25))
        )
        assert self.row(root, part, loras=loras).endswith(
            "| converted to ONNX, with LoRA style.safetensors x 1, LoRA more.safetensors x -0.25 |"
        )

    def test_no_name_breaks_the_table(self, root: Path, part: Part) -> None:
        found = self.row(root, part, source=Source(checkpoint="a|b\n{c}"))
        assert found == r"| text_encoder | a\|b {c} | - | converted to ONNX |"
