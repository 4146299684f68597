"""`lightfill keys`: who may call `lightfill serve`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import ServerUnavailable

if TYPE_CHECKING:
    from .server.keys import KeyStore

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke keys of `lightfill serve`.")
_screen = Console(stderr=True)
_out = Console()

DatabaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="As `serve` has it. [default: in data-dir]")
]
DataDir = Annotated[
    Path | None, typer.Option(help="As `serve` has it. [default: the user's data directory]")
]


@keys.command()
def create(
    name: Annotated[str | None, typer.Option(help="Whose it is, for `list`.")] = None,
    database: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, this once."""
    with _store(database, data_dir) as store:
        key = store.create(name)
    _screen.print("Keep it: it is not shown again. Programs take it as FAL_KEY.", highlight=False)
    print(key)


@keys.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    database: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Every key that was made, without its secret."""
    with _store(database, data_dir) as store:
        found = store.listed()
    if as_json:
        print(json.dumps([asdict(key) for key in found], indent=1))
        return
    table = Table(box=None)
    table.add_column("id", min_width=36)
    for column in ("name", "created", "last used", "revoked"):
        table.add_column(column, overflow="fold")
    for key in found:
        times = [_shown(time) for time in (key.created, key.last_used, key.revoked)]
        table.add_row(key.id, Text(key.name or ""), *times)
    _out.print(table if found else "no keys; `lightfill keys create` makes one", highlight=False)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The part before the colon.")],
    database: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Let a key open nothing any more; running servers know within a second."""
    with _store(database, data_dir) as store:
        changed = store.revoke(key_id)
    _screen.print("revoked" if changed else "it was revoked before", highlight=False)


@contextmanager
def _store(database: str | None, data_dir: Path | None) -> Iterator["KeyStore"]:
    """The keys of the database that `lightfill serve` uses with the same options."""
    from .fal.settings import Settings

    settings = Settings.from_environment(database_url=database, data_dir=data_dir)
    try:
        from .fal.database import Database
        from .server.keys import KeyStore
    except ModuleNotFoundError as error:
        raise ServerUnavailable(
            f"keys need {error.name}: run `pip install 'lightfill[serve]'`"
        ) from error
    opened = Database(settings.database)
    try:
        yield KeyStore(opened)
    finally:
        opened.close()


def _shown(time: float | None) -> str:
    return "" if time is None else f"{datetime.fromtimestamp(time).astimezone():%Y-%m-%d %H:%M}"
