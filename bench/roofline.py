"""How long each stage takes at least on a device: the roofline of Williams et al. (2009).

A stage cannot be faster than its operations at the device's full speed, nor than its unavoidable
bytes at full bandwidth: the larger of the two is its floor. Node by node, without any fusion, the
same rule gives a longer time, which says what is left to gain by fusing alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .graph_costs import Cost
from .limits import DeviceLimit
from .workload import Workload

_LATENT_ARRAYS = 5
"""Read or written at least once a step: latents, their noise and origin, prediction, result."""
_LATENT_BYTES_PER_PIXEL = 4 * 4 / 64  # 4 channels of float32, one cell for 8x8 pixels


@dataclass(frozen=True)
class Floor:
    """seconds: at least. unfused: node by node, or None for the host's stages. bound: by what."""

    seconds: float
    unfused: float | None
    bound: str
    flops: int
    bytes: int


def floor_of(cost: Cost, limit: DeviceLimit) -> Floor:
    """Of one run of a graph."""
    computing = cost.flops / limit.flops
    moving = cost.least_bytes / limit.bytes
    unfused = sum(
        count * max(flops / limit.flops, moved / limit.bytes) for flops, moved, count in cost.nodes
    )
    bound = "operations" if computing >= moving else "memory"
    return Floor(max(computing, moving), unfused, bound, cost.flops, cost.least_bytes)


def device_floors(
    costs: Mapping[str, Cost], limit: DeviceLimit, effective_steps: int
) -> dict[str, Floor]:
    """By stage; `unet` is all its steps together."""
    floors = {stage: floor_of(cost, limit) for stage, cost in costs.items()}
    step = floors["unet"]
    floors["unet"] = Floor(
        effective_steps * step.seconds,
        None if step.unfused is None else effective_steps * step.unfused,
        step.bound,
        effective_steps * step.flops,
        effective_steps * step.bytes,
    )
    return floors


def host_floors(
    workload: Workload, photo_size: tuple[int, int], effective_steps: int, limit: DeviceLimit
) -> dict[str, Floor]:
    """Of what the host does: bytes that must be read and written, at the speed of copies.

    photo_size: of the photo's file, (width, height). Codecs do far more than move bytes, so the
    share of this floor says little about them; it is here to be complete.
    """
    width, height = workload.size
    canvas = width * height
    photo = photo_size[0] * photo_size[1]
    files = workload.image.stat().st_size + workload.mask.stat().st_size
    moved = {
        "fetch": files,
        "prepare": files + 2 * 3 * photo + 4 * canvas,  # decoded, read again; canvas and its mask
        "composite": workload.batch * 10 * canvas,  # photo, paint and mask read, picture written
        "encode": workload.batch * 3 * canvas,
        "overhead": round(
            workload.batch * effective_steps * _LATENT_ARRAYS * _LATENT_BYTES_PER_PIXEL * canvas
        ),
    }
    return {
        stage: Floor(count / limit.bytes, None, "memory", 0, count)
        for stage, count in moved.items()
    }
