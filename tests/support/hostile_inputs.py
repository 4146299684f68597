"""Runs hostile inputs in a process of its own, and reports what each one cost.

    python hostile_inputs.py PORT < {"name": value, ...}

Prints one JSON object: name -> {"status", "body", "seconds", "peak_mb"}; status 0 is "accepted".
127.0.0.2 stands in for the public internet, where the hostile server listens; names ending in
.test resolve as `resolve` says. Memory is the kernel's own high-water mark (VmHWM), reset for each
input, above what the process held before it.
"""

import json
import sys
import time
import warnings
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightfill.engine.fal import addresses
from lightfill.engine.fal.fetch import Fetcher
from lightfill.engine.fal.files import Files
from lightfill.engine.fal.schema import error_body, validated
from lightfill.engine.fal.settings import Settings
from lightfill.engine.images import decode_mask, decode_photo

INTERNET = "127.0.0.2"
TIMEOUT_S = 2.0
asked: dict[str, int] = {}


def resolve(host: str, port: int) -> list[str]:
    asked[host] = asked.get(host, 0) + 1
    if host == "slow-dns.test":
        time.sleep(60)
    if host == "rebind.test":  # what it was when it was checked, and what it is afterwards
        return [INTERNET if asked[host] == 1 else "127.0.0.1"]
    answers = {
        "public.test": [INTERNET],
        "private.test": ["10.0.0.1"],
        "mixed.test": [INTERNET, "127.0.0.1"],
        "nat64.test": ["64:ff9b::7f00:1"],
        "nowhere.test": [],
    }
    return answers[host] if host in answers else addresses.system_resolve(host, port)


def memory_mb(line: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0]) / 1024


def attempt(files: Files, settings: Settings, value: Any) -> tuple[int, Any]:
    """One request's picture, from its arguments to its pixels, read as a photo and as a mask."""
    try:
        request = validated({"image_url": value, "mask_url": "data:,x", "prompt": "a cat"})
        data = files.read_input(request.image_url, "image_url")
        decode_photo(data, "image_url", settings.max_pixels)
        decode_mask(data, "image_url", settings.max_pixels)
    except Exception as error:  # noqa: BLE001  # whatever leaks out is a finding
        status, body = error_body(error)
        return status, body if status == 422 else repr(error)
    return 0, None


def main() -> None:
    warnings.simplefilter("error")
    ordinary = addresses.is_public
    addresses.is_public = lambda address: address == ip_address(INTERNET) or ordinary(address)
    inputs: dict[str, Any] = json.load(sys.stdin)
    report = {}
    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), download_timeout_s=TIMEOUT_S)
        files = Files(settings, Fetcher(settings, resolve))
        attempt(files, settings, f"http://public.test:{sys.argv[1]}/good")  # loads the codecs
        for name, value in inputs.items():
            asked.clear()
            Path("/proc/self/clear_refs").write_text("5")
            before, start = memory_mb("VmRSS"), time.perf_counter()
            status, body = attempt(files, settings, value)
            seconds = time.perf_counter() - start
            peak = memory_mb("VmHWM") - before
            report[name] = {"status": status, "body": body, "seconds": seconds, "peak_mb": peak}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
