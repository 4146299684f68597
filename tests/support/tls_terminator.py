"""HTTPS in front of a plain HTTP server, as a reverse proxy would offer it: bytes in, bytes out."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass
class Terminator:
    """authority: for clients' SSL_CERT_FILE. backend_port: of the server behind, set when known."""

    port: int
    authority: Path
    backend_port: int = 0


@contextmanager
def terminating(folder: Path) -> Iterator[Terminator]:
    """TLS for 127.0.0.1 on any free port."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    authority = folder / "authority.pem"
    ca.cert_pem.write_to_path(str(authority))
    ready, loops = threading.Event(), []
    here = Terminator(0, authority)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", here.backend_port)
        await asyncio.gather(relay(reader, behind[1]), relay(behind[0], writer))

    async def serve() -> None:
        server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
        ended = asyncio.Event()
        loops.append((asyncio.get_running_loop(), ended))
        here.port = server.sockets[0].getsockname()[1]
        ready.set()
        await ended.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="TLS")
    thread.start()
    ready.wait(10)
    try:
        yield here
    finally:
        loop, ended = loops[0]
        loop.call_soon_threadsafe(ended.set)
        thread.join()
