"""Inputs made to reach inside, to hang or to exhaust: each is a 422 as fal writes it, and cheap.

They run in a process of their own against a real server on loopback (`hostile_server`), with fal's
own byte limit of 50 MiB and a 2 s deadline; `hostile_inputs` measures time and memory of each.
"""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_server import (
    HostileServer,
    bmp_of_single_runs,
    jpeg_with_scans,
    picture,
    png,
    replies,
    serving,
    zeros_compressed,
)
from PIL import Image

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs 127.0.0.2 as a second address and /proc to measure"
)

CHILD = Path(__file__).parents[2] / "support" / "hostile_inputs.py"
TIMEOUT_S = 2.0
SLACK_S = 8.0  # for a slow or shared machine; without its deadline an input takes for ever
"""Beyond the deadline: threads of a busy machine, and decoding."""
MAX_PEAK_MB = 160
"""Three times the 50 MiB a file may have: it is received, perhaps inflated, and decoded."""
NOT_HOSTILE = {"good"}
MAX_BYTES_A_PIXEL = 20
"""What decoding may hold at once: RGBA, its copy over white, and the result in RGB are 11."""


def data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def addresses_and_schemes(canary: int) -> dict[str, Any]:
    """Inputs that name what they should not; the canary listens on the port they give."""
    hosts = [
        "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "127.1", "127.0.1", "2130706433",
        "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1%25lo]",
        "[fc00::1]", "[ff02::1]", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.100.100.200", "168.63.129.16", "198.18.0.1", "224.0.0.1",
        "255.255.255.255", "①②⑦.⓪.⓪.①", "ⓛocalhost", "127。0。0。1", "127%2e0.0.1",
        "private.test", "mixed.test", "nat64.test", "nowhere.test", "slow-dns.test",
        "public.test@127.0.0.1", "127.0.0.1#@public.test", "127.0.0.1\\@public.test",
        "127.0.0.1\t", "a" * 300 + ".test", "a..test", "-.test", "exa mple.test", "[::1", "",
    ]  # fmt: skip
    inputs: dict[str, Any] = {f"host {host[:40]}": f"http://{host}:{canary}/" for host in hosts}
    texts = [
        "file:///etc/passwd", "FILE:///etc/passwd", "file://localhost/etc/passwd", "/etc/passwd",
        "../../etc/passwd", f"gopher://127.0.0.1:{canary}/_x", f"ftp://127.0.0.1:{canary}/x",
        f"dict://127.0.0.1:{canary}/x", f"ws://127.0.0.1:{canary}/", "javascript:alert(1)",
        "blob:http://public.test/x", "unix:///run/docker.sock", "jar:http://127.0.0.1!/",
        f"//127.0.0.1:{canary}/", f"http:127.0.0.1:{canary}", f"http:/127.0.0.1:{canary}/",
        f"http:\\\\127.0.0.1:{canary}", "http://", "http://public.test:0/", "http://public.test:x/",
        "http://public.test:99999/", "http://public.test/\r\nX: y", "http://public.test/\0", "",
        " ", "\ud800", "http://public.test/" + "a" * 10_000, "lightfill", "x" * 1_000_000,
    ]  # fmt: skip
    inputs |= {f"text {text[:40]!r}": text for text in texts}
    kinds: list[Any] = [None, 7, True, [], {}, ["http://public.test/good"], {"path": "/etc/passwd"}]
    return inputs | {f"type {value!r}": value for value in kinds}


def data_uris() -> dict[str, str]:
    good = data_uri(picture())
    return {
        "no comma": "data:image/png;base64",
        "empty": "data:image/png;base64,",
        "bare": "data:",
        "truncated base64": good[:-3],
        "half the base64": good[: len(good) // 2],
        "foreign characters": good[:100] + "!?" + good[100:],
        "non-ASCII": good[:100] + "\u00e9" + good[100:],
        "padding inside": good[:100] + "====" + good[100:],
        "header of 1 MB": "data:" + "a" * 1_000_000 + "," + good,
        "60 MB of base64": "data:;base64," + "A" * 80_000_000,
        "160 MB of percent signs": "data:," + "%00" * 55_000_000,
        "text": "data:text/plain,hello",
        "nested": "data:text/plain,http://127.0.0.1/",
        "html": "data:image/png,<script>alert(1)</script>",
        "png bomb": data_uri(png(65_000, 65_000)),
        "png just over 64 megapixels": data_uri(png(8001, 8001)),
        "png that ends early": data_uri(png(4000, 4000)),
        "png of zeros that is too wide": data_uri(png(2**31 - 1, 1)),
        "png with a bad checksum": data_uri(picture()[:40] + b"\0\0\0\0" + picture()[44:]),
        "bmp bomb": data_uri(b"BM" + bytes(12) + b"(\0\0\0\xff\xff\0\0\xff\xff\0\0\1\0\x18\0"),
        "ppm that Python decodes": data_uri(b"P6 1600 1600 254\n" + bytes(3 * 1600 * 1600)),
        "bmp that Python decodes": data_uri(bmp_of_single_runs(1600)),
        "gif bomb": data_uri(b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;"),
    }


def server_paths(port: int) -> dict[str, str]:
    inputs = {path: f"http://public.test:{port}/{path}" for path in replies()}
    return {path: url for path, url in inputs.items() if path not in NOT_HOSTILE}


def redirects(server: HostileServer, canary: int) -> dict[str, str]:
    """Redirects to the canary, one of them through a name that changes its answer."""
    hosts = {"to-loopback": "127.0.0.1", "to-name": "localhost", "to-rebind": "rebind.test"}
    inputs = {}
    for path, host in hosts.items():
        location = f"http://{host}:{canary}/secret"
        reply = f"HTTP/1.1 307 Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        server.replies[path] = reply.encode()
        start = "rebind.test" if path == "to-rebind" else "public.test"
        inputs[path] = f"http://{start}:{server.port}/{path}"
    return inputs


def measured(server: HostileServer, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the child process reports about `inputs`."""
    done = subprocess.run(
        [sys.executable, CHILD, str(server.port)],
        input=json.dumps(inputs), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    assert list(report) == list(inputs)
    return report


def check(name: str, outcome: dict[str, Any]) -> None:
    """422 in fal's list form about `image_url`, within the limits of time and memory."""
    assert outcome["status"] == 422, (name, outcome)
    (item,) = outcome["body"]["detail"]
    assert item["loc"] == ["body", "image_url"], (name, item)
    assert set(item) <= {"type", "loc", "msg", "input", "ctx", "url"}, (name, item)
    assert 10 < len(item["msg"]) < 600, (name, item)
    known = {"file_download_error", "file_too_large", "image_load_error", "image_too_large"}
    assert item["type"] in known | {"string_type"}, (name, item)
    assert len(json.dumps(outcome["body"])) < 2000, name
    assert outcome["seconds"] < TIMEOUT_S + SLACK_S, (name, outcome)
    assert outcome["peak_mb"] < MAX_PEAK_MB, (name, outcome)


def run(groups: str) -> tuple[dict[str, Any], HostileServer]:
    with serving("127.0.0.2") as server, serving("127.0.0.1") as canary:
        inputs = {
            "addresses": lambda: addresses_and_schemes(canary.port),
            "data URIs": data_uris,
            "server": lambda: server_paths(server.port) | redirects(server, canary.port),
        }[groups]()
        report = measured(server, inputs)
        assert canary.connections == 0, "something inside was reached"
    for name, outcome in report.items():
        check(name, outcome)
    worst = max(report, key=lambda name: report[name]["peak_mb"])
    slowest = max(report, key=lambda name: report[name]["seconds"])
    print(
        f"{len(report)} hostile inputs; peak {report[worst]['peak_mb']:.0f} MB ({worst}), "
        f"slowest {report[slowest]['seconds']:.1f} s ({slowest})"
    )
    return report, server


def test_addresses_hosts_and_schemes_that_lead_inside() -> None:
    report, server = run("addresses")
    assert len(report) >= 80
    assert [request.split(b"\r\n")[0] for request in server.requests] == [b"GET /good HTTP/1.1"]


def test_data_uris_that_are_broken_or_bombs() -> None:
    report, _ = run("data URIs")
    assert len(report) >= 20
    for name in ("60 MB of base64", "160 MB of percent signs"):
        (item,) = report[name]["body"]["detail"]
        assert item["type"] == "file_too_large"
        assert item["ctx"] == {"max_size": 50 << 20}
        assert report[name]["peak_mb"] < 1, "refused before it is decoded"


@pytest.mark.slow  # a dozen of the answers are slow: each runs into the 2 s deadline
def test_a_server_that_stalls_lies_floods_and_redirects() -> None:
    report, _ = run("server")
    assert len(report) >= 50
    types = {name: outcome["body"]["detail"][0]["type"] for name, outcome in report.items()}
    for name in ("endless-body", "endless-chunks", "huge-length", "gzip-bomb", "deflate-bomb"):
        assert types[name] == "file_too_large", name
    assert types["png-bomb"] == "image_too_large"
    assert types["to-loopback"] == types["to-rebind"] == "file_download_error"


def test_odd_but_sound_pictures_are_accepted_in_bounded_memory() -> None:
    """The counterpart: the checks above do not pass because everything is refused."""
    archive = b"PK\x05\x06" + bytes(18)
    inputs = {
        "png": data_uri(picture()),
        "jpeg with a zip behind it": data_uri(picture("JPEG") + archive),
        "png whose rows go on for 256 MB": data_uri(png(8, 8, rows=zeros_compressed(1 << 28))),
        "progressive jpeg": data_uri(jpeg_with_scans(20)),
        "spaces and line ends": data_uri(picture()).replace("A", "A\r\n ", 20),
        "capitals": data_uri(picture()).replace("data:image/png;base64", "DATA:IMAGE/PNG;BASE64"),
        "no padding": data_uri(picture() + b"x").rstrip("="),
    }
    with serving("127.0.0.2") as server:
        inputs["http"] = f"http://public.test:{server.port}/good"
        report = measured(server, inputs)
    assert {name: outcome["status"] for name, outcome in report.items()} == dict.fromkeys(inputs, 0)
    assert max(outcome["peak_mb"] for outcome in report.values()) < MAX_PEAK_MB


def encoded(picture: Image.Image, file_format: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return data_uri(buffer.getvalue())


def test_large_pictures_from_small_files_cost_a_few_bytes_a_pixel() -> None:
    """The largest a caller may send has 64 megapixels, and as little as a few kilobytes."""
    size = (2000, 2000)
    clear = Image.new("RGBA", size, (1, 2, 3, 100))
    half_clear = clear.copy()
    half_clear.paste((200, 100, 0, 255), (0, 0, 2000, 1000))
    inputs = {
        "png, transparent": encoded(clear, "PNG", compress_level=1),
        "png, partly transparent": encoded(half_clear, "PNG", compress_level=1),
        "png, palette": encoded(Image.new("P", size), "PNG", compress_level=1, transparency=0),
        "png, 16 bits": encoded(Image.fromarray(np.zeros(size, np.uint16)), "PNG"),
        "webp": encoded(half_clear, "WEBP", lossless=True, method=0),
        "jpeg, four inks": encoded(Image.new("CMYK", size), "JPEG"),
        "tiff, floats": encoded(
            Image.fromarray(np.zeros(size, np.float32)), "TIFF", compression="tiff_deflate"
        ),
    }
    with serving("127.0.0.2") as server:
        report = measured(server, inputs)
    assert {name: outcome["status"] for name, outcome in report.items()} == dict.fromkeys(inputs, 0)
    for name, outcome in report.items():
        assert outcome["peak_mb"] * 2**20 < MAX_BYTES_A_PIXEL * 2000 * 2000, (name, outcome)
        assert outcome["seconds"] < SLACK_S, (name, outcome)
