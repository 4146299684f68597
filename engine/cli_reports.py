"""`lightfill doctor` and `lightfill info`: what this machine can run, what a bundle holds."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

_out = Console()


def doctor() -> None:
    """Show what this machine can run, and how to get what is missing."""
    from . import doctor as findings

    _out.print(f"[bold]machine[/bold]  {findings.machine()}", soft_wrap=True)
    for name, found in findings.runtime_versions().items():
        _out.print(f"  {name} {found}", highlight=False)
    for title, rows in (("device", findings.devices()), ("extra", findings.extras())):
        table = Table(title, "", "", box=None, title_justify="left")
        for row in rows:
            mark = "[green]yes[/green]" if row.works else "[yellow]no[/yellow]"
            table.add_row(row.name, mark, plain(row.detail))
        _out.print(table)
    settings = Table("setting", "", box=None, title_justify="left")
    for shown in findings.settings():
        settings.add_row(shown.variable, plain(shown.value) + (" (set)" if shown.changed else ""))
    _out.print(settings)


def info(
    bundle: Annotated[Path | None, typer.Argument(help="[default: the embedded model]")] = None,
    check: Annotated[bool, typer.Option(help="Read and check every file again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Show what a model bundle holds."""
    from .bundle import Bundle

    opened = Bundle.open(bundle, check=check)
    manifest = opened.manifest
    if as_json:
        print(json.dumps(manifest.model_dump(mode="json"), indent=1))
        return
    table = Table("component", "role", "graphs", "weights MB", box=None)
    for name, part in manifest.components.items():
        weights = manifest.files[part.weights].bytes / 1e6
        table.add_row(name, part.role, ", ".join(part.graphs), f"{weights:.1f}")
    steps = ", ".join(
        f"{count} ({entry.component}, {entry.prediction})"
        for count, entry in sorted(manifest.steps.items())
    )
    _out.print(f"[bold]{plain(manifest.name)}[/bold] in {plain(str(opened.root))}")
    _out.print(f"from {plain(manifest.source.checkpoint)}; natural size {manifest.natural_size}")
    _out.print(f"steps: {steps}", highlight=False)
    _out.print(table)
    _out.print(f"{opened.bytes_on_disk / 1e6:.1f} MB in {len(manifest.files)} files, all as listed")
    for licence in manifest.licences:
        _out.print(f"licence: {licence.file} ({licence.covers})", markup=False)


def plain(text: str) -> str:
    """Text that rich prints as it is, square brackets included."""
    return text.replace("[", "\\[")
