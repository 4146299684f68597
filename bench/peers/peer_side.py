"""What every peer does the same way: answer lines of JSON (bench/side.py has the other end).

A peer's script runs in an environment of its own, where lightfill is not installed; it gives
`serve` a function that loads the model and returns one that paints.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

Paint = Callable[[Image.Image, Image.Image, int], list[Image.Image]]
"""paint(photo, mask, seed): the finished pictures; photo and mask are decoded, not resized."""


class Unavailable(Exception):
    """This peer cannot run here; the message is the reason that is reported."""


def serve(load: Callable[[dict[str, Any]], Paint], packages: tuple[str, ...]) -> None:
    """Load, warm up, then answer commands until told to end."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere

    def say(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    work = json.loads(sys.stdin.readline())
    workload = work["workload"]
    try:
        start = time.perf_counter()
        paint = load(work)
        pictures = _request(paint, workload)[0]
        loaded = time.perf_counter() - start
        for _ in range(work["warmups"] - 1):
            _request(paint, workload)
        say({"seconds": {"load": loaded}, "versions": _versions(packages)})
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "run":
                pictures, seconds = _request(paint, workload)
                say({"total": seconds})
            elif command["do"] == "save":
                pictures[0].save(command["path"])
                say({"saved": command["path"]})
            else:
                say({"peak_bytes": _peak_bytes(), "device_bytes": None})
                return
    except Unavailable as reason:
        say({"error": str(reason)})
    except Exception as error:  # noqa: BLE001 - whatever a library raises is this peer's reason
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        say({"error": f"{type(error).__name__}: {first}"})


def _request(paint: Paint, workload: dict[str, Any]) -> tuple[list[Image.Image], float]:
    """From files to the bytes of JPEGs, as our side does it."""
    start = time.perf_counter()
    photo, mask = (
        Image.open(BytesIO(Path(workload[name]).read_bytes())) for name in ("image", "mask")
    )
    pictures = paint(photo.convert("RGB"), mask.convert("L"), workload["seed"])
    for picture in pictures:
        picture.save(BytesIO(), "JPEG", quality=95)
    return pictures, time.perf_counter() - start


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _peak_bytes() -> int | None:
    """Linux's high water mark of this program; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
