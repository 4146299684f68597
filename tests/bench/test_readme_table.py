"""The README's benchmark table is what the committed results say, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lightfill.bench import marked_page, readme_table
from lightfill.bench.artefact import Latency
from lightfill.engine.errors import InvalidInput

BEGIN, END = marked_page.markers("bench")
README = Path(__file__).parents[2] / "README.md"


def test_a_row_for_every_artefact_and_the_machine_once(
    artefact_at: Callable[..., Path], measured: Latency
) -> None:
    engine = {**json.loads(measured.model_dump_json())["engine"], "bundle": "sdxl"}
    artefact_at("demo.json")
    results = artefact_at("sdxl-512.json", engine=engine).parent
    found = readme_table.committed(results)
    assert [each.engine["bundle"] for each in found] == ["lightfill-demo", "sdxl"]
    lines = readme_table.table(found).splitlines()
    assert lines[2].startswith("| `lightfill-demo`, cpu, 192x192 | ")
    assert lines[3].startswith("| `sdxl`, cpu, 192x192 | ")
    assert all(line.count("|") == 10 for line in lines[:4])
    assert "3 x " in lines[2]
    assert lines[-1].count(measured.machine["machine"]) == 1


def test_a_row_names_what_computes_in_less_than_float32(
    artefact_at: Callable[..., Path], measured: Latency
) -> None:
    engine = json.loads(measured.model_dump_json())["engine"]
    reduced = {**engine, "device": "openvino", "arithmetic": "int8+bf16"}
    results = artefact_at("sdxl-512-int8-bf16.json", engine=reduced).parent
    lines = readme_table.table(readme_table.committed(results)).splitlines()
    assert lines[2].startswith("| `lightfill-demo`, openvino int8+bf16, 192x192 | ")


def test_only_what_is_between_the_markers_changes(
    artefact_at: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = artefact_at("demo.json").parent
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    arguments = ["readme_table", "--write", "--page", str(page), "--results", str(results)]
    monkeypatch.setattr("sys.argv", arguments)
    readme_table.main()
    text = page.read_text()
    table = readme_table.table(readme_table.committed(results))
    assert text == f"# Before\n{BEGIN}\n{table}{END}\nafter\n"
    readme_table.main()
    assert page.read_text() == text


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{END}"])
def test_a_page_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="page: needs the line <!-- bench begin -->"):
        marked_page.replaced(text, "bench", "table")


def test_the_readme_says_what_the_committed_results_say() -> None:
    text, found = README.read_text(encoding="utf-8"), readme_table.committed()
    if not found:
        assert BEGIN not in text  # a table without results would be made up
        return
    assert text == marked_page.replaced(text, "bench", readme_table.table(found))
