"""The table of what engines take: read from records, written between its markers."""

import re
import sys
from pathlib import Path

import pytest
from engine_bundles import copied_demo, key_of, put

from lightfill.bench import engine_sizes
from lightfill.bench.engine_sizes import BEGIN, END
from lightfill.engine.bundle import Bundle
from lightfill.engine.engine_key import sizes_for
from lightfill.engine.engine_store import EngineStore


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundle = copied_demo(tmp_path)
    store = EngineStore.of(bundle)
    put(store, key_of(bundle, "text_encoder"), b"t" * 30_000_000)
    for width, size in ((512, 100_000_000), (1024, 110_000_000)):
        put(store, key_of(bundle, "unet", sizes=sizes_for("unet", width, width)), b"u" * size)
    put(store, key_of(bundle, "unet", sizes=sizes_for("unet", 512, 512, 2)), b"u" * 120_000_000)
    put(store, key_of(bundle, "vae_decoder", targets=("sm120",)), b"v" * 1_000_000)
    put(store, key_of(bundle, "vae_encoder")).write_bytes(b"damaged")
    return bundle


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    page = tmp_path / "tensorrt.md"
    page.write_text(f"# Engines\n\n{BEGIN}\nold figures\n{END}\n\nMore.\n")
    monkeypatch.setattr(engine_sizes, "PAGE", page)
    return page


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["engine_sizes", *map(str, arguments)])
    engine_sizes.main()


def test_the_tables_to_the_letter(
    bundle: Bundle, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = page.read_text()
    run(monkeypatch, bundle.root)
    assert page.read_text() == before
    one = "1.0 MB | 2 s | 1.07 GB |"
    assert capsys.readouterr().out.splitlines() == [
        "Engines of the bundle `lightfill-demo`, one picture at a time unless a batch is named.",
        "",
        "**rtx 1.7.1.116, sm120**",
        "",
        "| engine | size | plan | activations | build time | build's peak memory |",
        "|---|---|---|---|---|---|",
        f"| vae_decoder | square (512x512) | 1.0 MB | {one}",
        "",
        "**rtx 1.7.1.116, sm89**",
        "",
        "| image size | engines | plans on disk | device memory: plans + activations |",
        "|---|---|---|---|",
        "| square (512x512) | 2 | 0.13 GB | 0.13 GB + 0.00 GB = 0.13 GB |",
        "| square_hd (1024x1024) | 2 | 0.14 GB | 0.14 GB + 0.00 GB = 0.14 GB |",
        "",
        "| engine | size | plan | activations | build time | build's peak memory |",
        "|---|---|---|---|---|---|",
        f"| text_encoder | any | 30.0 MB | {one}",
        f"| unet | square (512x512) | 100.0 MB | {one}",
        f"| unet, batch 2 | square (512x512) | 120.0 MB | {one}",
        f"| unet | square_hd (1024x1024) | 110.0 MB | {one}",
        "",
    ]


def test_it_is_written_between_the_markers_when_told(
    bundle: Bundle, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, bundle.root, "--write")
    start, _, rest = page.read_text().partition(BEGIN)
    figures, _, end = rest.partition(END)
    assert (start, end) == ("# Engines\n\n", "\n\nMore.\n")
    assert "old figures" not in figures
    assert figures.strip() == capsys.readouterr().out.strip()


def test_the_page_has_a_place_for_the_table() -> None:
    text = engine_sizes.PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_the_page_names_every_option_of_the_command_and_no_other() -> None:
    import inspect

    from lightfill.engine import cli_build

    text = engine_sizes.PAGE.read_text(encoding="utf-8")
    building = text.partition("## Building")[2].partition("## For a fleet")[0]
    listed = set(re.findall(r"`(--[a-z-]+)", building))
    options = {
        f"--{name.replace('_', '-')}" for name in inspect.signature(cli_build.build).parameters
    }
    assert listed == options - {"--bundle"}
