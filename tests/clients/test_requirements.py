"""What the tests beside this one need, and how they say so."""

import json
import re
from pathlib import Path

import pytest

from .conftest import HERE, found_node


@pytest.mark.parametrize("is_required", [False, True])
def test_without_node_tests_are_skipped_or_fail_with_the_command(
    tmp_path: Path, is_required: bool
) -> None:
    outcome = pytest.fail.Exception if is_required else pytest.skip.Exception
    with pytest.raises(outcome, match=r"install Node\.js .*`npm ci --prefix tests/clients`"):
        found_node(str(tmp_path), tmp_path, is_required=is_required)
    (tmp_path / "node").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "node").chmod(0o755)
    with pytest.raises(outcome, match="not here: run `npm ci --prefix tests/clients`"):
        found_node(str(tmp_path), tmp_path, is_required=is_required)


def test_the_lock_names_packages_by_content_and_no_registry() -> None:
    text = (HERE / "package-lock.json").read_text(encoding="utf-8")
    packages = json.loads(text)["packages"]
    assert {"node_modules/@fal-ai/client", "node_modules/@fal-ai/serverless-client"} <= set(
        packages
    )
    for name, package in packages.items():
        assert not name or package["integrity"].startswith("sha512-")
    assert not re.search(r"resolved|https?:", text)
