"""A web server that misbehaves on purpose, and pictures that are no pictures.

`HostileServer` answers each path with one kind of abuse, over raw sockets, because no HTTP library
would send such bytes. `Canary` is what must never be reached: it counts who connects.
"""

import contextlib
import gzip
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from PIL import Image

Connection = socket.socket
Reply = bytes | Callable[[Connection], None]
DRIP_S = 0.05


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, rows: bytes | None = None) -> bytes:
    """A black grey-level PNG with any declared size; `rows` are the compressed pixel rows."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    if rows is None:
        rows = zlib.compress(b"\0" * min((width + 1) * height, 1 << 20))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", rows), png_chunk(b"IEND", b""))
    )


def picture(file_format: str = "PNG", side: int = 32) -> bytes:
    """A sound picture."""
    buffer = io.BytesIO()
    noise = np.random.RandomState(0).randint(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(buffer, file_format)
    return buffer.getvalue()


@cache
def zeros_compressed(size: int, wbits: int = 15) -> bytes:
    """`size` zero bytes, compressed a thousandfold without ever being held."""
    squeeze = zlib.compressobj(1, zlib.DEFLATED, wbits)
    piece = bytes(1 << 20)
    return b"".join(squeeze.compress(piece) for _ in range(size >> 20)) + squeeze.flush()


@cache
def jpeg_with_scans(count: int) -> bytes:
    """A sound 4-megapixel JPEG whose last scan, of a hundred bytes, comes `count` times more."""
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000), 7).save(buffer, "JPEG", progressive=True)
    body = buffer.getvalue()[:-2]
    return body + body[body.rindex(b"\xff\xda") :] * count + b"\xff\xd9"


def tiff_with_giant_tile() -> bytes:
    """A 64x64 TIFF whose only tile claims 16384x16384 RGB pixels: 805 MB once inflated."""
    side = 16384
    tile = zeros_compressed(side * side * 3)
    fields = {
        256: (4, 64), 257: (4, 64), 259: (3, 8), 262: (3, 2), 277: (3, 3),
        322: (4, side), 323: (4, side), 325: (4, len(tile)),
    }  # fmt: skip
    depths_at = 8 + 2 + 12 * (len(fields) + 2) + 4
    entries = {258: struct.pack("<HHII", 258, 3, 3, depths_at)}
    entries[324] = struct.pack("<HHII", 324, 4, 1, depths_at + 6)
    for tag, (kind, value) in fields.items():
        entries[tag] = struct.pack("<HHII" if kind == 4 else "<HHIHxx", tag, kind, 1, value)
    directory = b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    start = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return start + directory + struct.pack("<HHH", 8, 8, 8) + tile


def bmp_of_single_runs(side: int) -> bytes:
    """An RLE8 BMP that says of every single pixel that it comes once."""
    rows = (b"\x01\x05" * side + b"\0\0") * side + b"\0\1"
    start = 14 + 40 + 1024
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + bytes(1024) + rows


def ok(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A 200 with `body`; `length` is what it claims."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def repeating(head: bytes, piece: bytes, pause_s: float = 0.0) -> Reply:
    """`head`, then `piece` for ever."""

    def reply(connection: Connection) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            if pause_s:
                time.sleep(pause_s)

    return reply


@cache
def replies() -> dict[str, Reply]:
    """What each path does."""
    good = picture()
    head = b"HTTP/1.1 200 OK\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    return {
        "good": ok(good),
        "silent": repeating(b"", b"", 0.05),
        "slow-headers": repeating(head, b"X-A: b\r\n", DRIP_S),
        "slow-body": repeating(head + b"Content-Length: 5000\r\n\r\n", b"x", DRIP_S),
        "slow-chunks": repeating(chunked, b"1\r\nx\r\n", DRIP_S),
        "endless-headers": repeating(head, b"X-A: " + b"b" * 1000 + b"\r\n"),
        "endless-header-line": repeating(head + b"X-A: ", b"b" * 4096),
        "endless-continue": repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
        "endless-body": repeating(head + b"\r\n", bytes(1 << 16)),
        "endless-chunks": repeating(chunked, chunk),
        "endless-chunk-extension": repeating(chunked + b"1;", b"x" * 4096),
        "endless-trailers": repeating(chunked + b"1\r\nx\r\n0\r\n", b"X-A: b\r\n" * 100),
        "endless-tiny-chunks": repeating(chunked, b"1\r\nx\r\n" * 1000),
        "huge-length": ok(good, length=10**12),
        "absurd-length": ok(good, length=10**40),
        "short-of-length": ok(good, length=len(good) + 1000),
        "beyond-length": ok(good, length=len(good) // 2),
        "negative-length": ok(good, length=-1),
        "two-lengths": ok(good, "Content-Length: 5"),
        "no-body": ok(b""),
        "gzip-bomb": ok(zeros_compressed(1 << 28, 31), "Content-Encoding: gzip"),
        "deflate-bomb": ok(zeros_compressed(1 << 28), "Content-Encoding: deflate"),
        "gzip-cut": ok(gzip.compress(good)[:-20], "Content-Encoding: gzip"),
        "gzip-garbage": ok(b"\x1f\x8b" + bytes(500), "Content-Encoding: gzip"),
        "double-gzip": ok(gzip.compress(gzip.compress(good)), "Content-Encoding: gzip, gzip"),
        "brotli": ok(good, "Content-Encoding: br"),
        "not-http": b"SSH-2.0-OpenSSH_9.6\r\n" * 10,
        "http-09": b"<html>hello</html>",
        "hang-up": b"",
        "upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nboo",
        "not-found": b"HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n",
        "no-location": b"HTTP/1.1 302 Go\r\nContent-Length: 0\r\n\r\n",
        "html": ok(b"<html><body>not found, but 200</body></html>", "Content-Type: image/png"),
        "svg": ok(
            b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
        ),
        "eps": ok(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run showpage\n%%EOF\n"),
        "pdf": ok(b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF"),
        "zip": ok(b"PK\x03\x04" + bytes(100)),
        "gif-script": ok(b"GIF89a/*\x01\x00=alert(1)//*/" + bytes(40)),
        "png-bomb": ok(png(30000, 30000)),
        "png-empty": ok(png(0, 10)),
        "png-text-bomb": ok(png(8, 8, png_chunk(b"zTXt", b"a\0\0" + zeros_compressed(1 << 28)))),
        "png-cut": ok(good[: len(good) // 2]),
        "jpeg-cut": ok(picture("JPEG", 256)[:3000]),
        "jpeg-scan-bomb": ok(jpeg_with_scans(5000)),
        "tiff-giant-tile": ok(tiff_with_giant_tile()),
        "loop": redirect("/loop"),
        "redirect-file": redirect("file:///etc/passwd"),
        "redirect-gopher": redirect("gopher://127.0.0.1:6379/_FLUSHALL"),
        "redirect-data": redirect("data:image/png;base64,AAAA"),
        "redirect-userinfo": redirect("http://public.test@127.0.0.1/"),
        "redirect-metadata": redirect("http://169.254.169.254/latest/meta-data/"),
        "redirect-mapped": redirect("http://[::ffff:127.0.0.1]/"),
        "redirect-decimal": redirect("http://2130706433/"),
        "redirect-crlf": redirect("/good%0d%0aX: y\x0b"),
        "redirect-bad": redirect("http://[::1"),
    }


class HostileServer:
    """Serves `replies()` and whatever is added to `.replies`, a thread for each connection."""

    def __init__(self, address: str) -> None:
        self.replies = dict(replies())
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server((address, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(30)
            request = b""
            while b"\r\n\r\n" not in request and (data := connection.recv(65536)):
                request += data
            self.requests.append(request)
            reply = self.replies.get(request.split(b" ")[1].decode().strip("/"), b"")
            if callable(reply):
                reply(connection)
            else:
                connection.sendall(reply)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)  # until the client hangs up, so that it reads all of it


@contextlib.contextmanager
def serving(address: str) -> Iterator[HostileServer]:
    server = HostileServer(address)
    try:
        yield server
    finally:
        server.close()
