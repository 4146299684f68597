"""`lightfill serve`: fal's HTTP protocol on this machine."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .errors import ServerUnavailable

if TYPE_CHECKING:
    from .fal.settings import Settings

_screen = Console(stderr=True)


def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="0: any that is free. [default: 8765]")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Model bundle. [default: the embedded demo model]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, openvino, cuda, tensorrt or rtx. [default: cpu]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="On openvino: bf16, int8 or int8+bf16. [default: float32]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Jobs at a time; 0: other processes run them. [default: 1]")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="SQLAlchemy's. [default: a file in data-dir]")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Files and jobs. [default: the user's data directory]")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(metavar="URL", help="How callers reach the server.")
    ] = None,
    authentication: Annotated[
        bool | None,
        typer.Option(
            "--auth/--no-auth", help="Ask for keys. [default: unless only this machine calls]"
        ),
    ] = None,
    cors_origins: Annotated[
        str | None,
        typer.Option(metavar="ORIGIN,...", help="Sites whose pages may call; * for all."),
    ] = None,
    allow_private_addresses: Annotated[
        bool | None,
        typer.Option(
            "--allow-private-addresses", help="Inputs and webhooks may be in this network."
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="critical, error, warning, info (a line per request) or debug. [default: warning]",
        ),
    ] = None,
) -> None:
    """Serve fal's API and a page to try it. Every option is a LIGHTFILL_* variable, too."""
    from .fal.settings import Settings

    settings = Settings.from_environment(
        host=host, port=port, bundle=bundle, device=device, precision=precision,
        workers=workers, database_url=database, data_dir=data_dir, public_url=public_url,
        authentication=authentication, cors_origins=cors_origins,
        allow_private_addresses=allow_private_addresses, log_level=log_level,
    )  # fmt: skip
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("lightfill").setLevel(settings.log_level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        from .server.serve import serve as run
    except ModuleNotFoundError as error:
        raise ServerUnavailable(
            f"the server needs {error.name}: run `pip install 'lightfill[serve]'`"
        ) from error
    run(settings, _told)


def _told(settings: "Settings") -> None:
    keys = "" if settings.authentication else " without keys, for this machine only"
    _screen.print(f"lightfill serves {settings.public_url}{keys}; Ctrl-C ends it", highlight=False)
