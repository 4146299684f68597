"""Does a bundle fit into this machine's memory? If not, its parts are loaded one at a time.

The rule for "cpu", which computes in float32: two bytes of memory for each byte of weights, which
are stored as float16, of every component (of several UNets, the largest). On top of that comes the
larger of two: two more bytes for each byte of the UNet while it is loaded (ONNX Runtime 1.32 on
x86-64 Linux held 4.1 times a graph's 279 MB at the peak, 2.0 times after it), and what the
computation keeps, 10 kB for each pixel of the model's natural size (SDXL at 1024x1024 peaked at
23.9 GB, of which 13.4 are weights; at 512x512 at 16.3). A bundle's only UNet is loaded before
everything else, which is then still to come.

"openvino" keeps weights as float32 beside the form it packs them into at the first run: four bytes
for each byte stored, in bfloat16 no less (OpenVINO 2026.4: SDXL's UNet alone took 4.0 times its
weights, and all parts together did not fit into 24 GB). A UNet in int8 takes 1.2 bytes for each
byte of its float16 weights (SDXL's peaked at 1.13).

Weights stored as float32 are counted twice. A fifth of the available memory is left to the system,
which caches files in it. Accelerators' own memory is not looked at.
"""

import contextlib
import ctypes
import logging
from pathlib import Path

from .bundle import Bundle
from .checks import flag
from .precision import is_int8

_RESIDENT_PER_STORED = {"cpu": 2, "openvino": 4}
_LOADING_PER_STORED = 2
_INT8_PER_STORED = 1.2
_COMPUTING_PER_PIXEL = 10_000
_USABLE_SHARE = 0.8
WORTH_ASKING = 1 << 30
"""Bundles that need less fit anywhere: the machine is not asked, which costs an import."""
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

logger = logging.getLogger(__name__)


def chooses_low_memory(
    bundle: Bundle, device: str, low_memory: bool | None = None, precision: str | None = None
) -> bool:
    """`low_memory` if the caller has decided; else whether `bundle` needs more than there is.

    What is decided here in favour of low memory is logged, with how to decide otherwise.
    """
    if low_memory is not None:
        return flag("low_memory", low_memory)
    if device not in _RESIDENT_PER_STORED:
        return False
    needed = needed_bytes(bundle, device, precision)
    if needed <= WORTH_ASKING or needed <= _USABLE_SHARE * (available := available_bytes()):
        return False
    logger.warning(
        "bundle %r needs about %.1f GB of memory on %s, more than four fifths of the %.1f GB "
        "that are available: low memory mode, "
        "which loads one part of the model at a time, for every request; low_memory=True "
        "(--low-memory) chooses it without this warning, low_memory=False (--no-low-memory) loads "
        "everything",
        bundle.manifest.name,
        needed / 1e9,
        device,
        available / 1e9,
    )
    return True


def needed_bytes(bundle: Bundle, device: str = "cpu", precision: str | None = None) -> int:
    """Memory that a request at the natural size takes, with the largest of the UNets.

    device: "cpu" or "openvino". precision: as in `SessionOptions`.
    """
    stored = {"unet": [0], "others": [0]}
    for component in bundle.manifest.components.values():
        size = bundle.manifest.files[component.weights].bytes
        stored["unet" if component.role == "unet" else "others"].append(size)
    unet, others = max(stored["unet"]), sum(stored["others"])
    computing = _COMPUTING_PER_PIXEL * bundle.manifest.natural_size**2
    per_stored = _RESIDENT_PER_STORED[device]
    unet_per_stored = _INT8_PER_STORED if is_int8(precision) else per_stored
    resident = per_stored * others + round(unet_per_stored * unet)
    if device != "cpu":
        return resident + computing
    loading = _LOADING_PER_STORED * unet
    if bundle.only_unet is not None:
        return max(per_stored * unet + loading, resident + computing)
    return resident + max(loading, computing)


def available_bytes() -> int:
    """Memory this process may still take: what the system has free, or its container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = cgroup_limit()
    return free if limit is None else min(free, limit)


def cgroup_limit(file: Path = _CGROUP_LIMIT) -> int | None:
    """The limit of this process's control group (version 2), or None where there is none."""
    try:
        limit = int(file.read_bytes())
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return limit if limit >= 0 else None


def return_freed() -> None:
    """Have glibc return freed memory to the system; it keeps nearly all of a closed session's."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
