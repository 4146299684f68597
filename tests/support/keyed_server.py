"""A running server that asks for keys, and two callers who have one each."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from running_server import RunningServer, running

from lightfill.engine.fal.settings import Settings
from lightfill.engine.pipeline import Inpainter


@dataclass(frozen=True)
class KeyedServer(RunningServer):
    """`mine` and `yours` are keys, `nobody` calls without one.

    There is no TLS to verify: loading certificates takes longer than most tests.
    """

    mine: str
    yours: str

    @property
    def me(self) -> httpx2.Client:
        return self.client(self.mine, verify=False)

    @property
    def you(self) -> httpx2.Client:
        return self.client(self.yours, verify=False)

    @property
    def nobody(self) -> httpx2.Client:
        return self.client(verify=False)

    @property
    def files(self) -> list[Path]:
        """All that lies in the storage, half files included."""
        root = self.site.files.storage.root
        return [path for path in root.rglob("*") if path.is_file()]


@contextmanager
def keyed(
    data_dir: Path, inpainter: Inpainter | None = None, **options: Any
) -> Iterator[KeyedServer]:
    """Such a server on the database in data_dir; options: of Settings."""
    given: dict[str, Any] = {"port": 0, "authentication": True, "allow_private_addresses": True}
    settings = Settings(data_dir=data_dir, **given | options)
    with running(settings, inpainter=inpainter) as server:
        keys = [server.site.keys.create(name) for name in ("me", "you")]
        yield KeyedServer(server.origin, server.site, server.server, *keys)


def key_id(key: str) -> str:
    """The part of a key that is no secret."""
    return key.partition(":")[0]
