"""The public face: names, version, typing marker, and what a wheel carries."""

import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import lightfill

ROOT = Path(__file__).parents[1]


def test_all_lists_every_public_name_sorted_and_each_loads() -> None:
    assert lightfill.__all__ == sorted(lightfill.__all__)
    assert dir(lightfill) == lightfill.__all__
    for name in lightfill.__all__:
        assert getattr(lightfill, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = lightfill.Nothing  # type: ignore[attr-defined]


def test_every_error_of_the_tree_is_public_and_mapped() -> None:
    from lightfill.engine import errors

    tree = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    tree = [kind for kind in tree if issubclass(kind, Exception)]
    drawn = errors.__doc__ or ""
    for kind in tree:
        assert kind.__name__ in lightfill.__all__
        assert getattr(lightfill, kind.__name__) is kind
        assert issubclass(kind, lightfill.LightfillError)
        line = re.search(rf"^ +{kind.__name__} +(\d+) (\w+)", drawn, re.MULTILINE)
        assert line, f"{kind.__name__} is not drawn in the docstring"
        assert int(line[1]) == kind.http_status
        assert line[2] == kind.error_type


def test_version_agrees_with_metadata_and_changelog() -> None:
    assert version("lightfill") == lightfill.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest
    assert newest[1] == lightfill.__version__


@pytest.mark.slow  # pip builds a real wheel in an isolated environment
def test_the_wheel_carries_the_embedded_bundle_the_page_and_the_type_marker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("lightfill-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for path in (*ROOT.glob("engine/demo_bundle/**/*"), *ROOT.glob("engine/server/page/**/*")):
        if path.is_file():
            assert f"lightfill/{path.relative_to(ROOT).as_posix()}" in names
    assert "lightfill/py.typed" in names
    assert not [name for name in names if "export/demo/" in name or "tests/" in name]
    assert wheel.stat().st_size < 20e6


def test_nothing_tracked_names_a_path_of_the_machine_it_was_made_on() -> None:
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.split(b"\0")
    here = str(ROOT).encode()
    for name in filter(None, files):
        path = ROOT / name.decode()
        if path.is_file():
            assert here not in path.read_bytes(), path


def test_no_module_of_ours_is_longer_than_a_room() -> None:
    for folder in ("scheduler", "engine", "export", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 300, f"{path.relative_to(ROOT)} has {lines} lines: is it two rooms?"
