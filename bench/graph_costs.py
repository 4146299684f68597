"""Operations and bytes of what a request computes, by stage.

The one module that reaches into `export`, whose counter needs the onnx package but no PyTorch; it
is imported when a graph is counted, and not before. SDXL's own costs lie in `sdxl-costs.json`.
See docs/decisions/0007-costs-are-counted-by-export.md.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.bundle import Bundle
from ..engine.components import PIXELS_PER_LATENT
from ..engine.errors import LightfillError
from ..engine.manifest import Arithmetic, Role

SDXL_COSTS = Path(__file__).parent / "sdxl-costs.json"
COMPONENTS: Mapping[str, tuple[Role, ...]] = {
    "text": ("text_encoder", "text_encoder_2"),
    "vae_encode": ("vae_encoder",),
    "unet": ("unet",),
    "vae_decode": ("vae_decoder",),
}
"""What runs in each stage; `unet` is one step."""


@dataclass(frozen=True)
class Cost:
    """What one run computes and moves.

    nodes: (operations, bytes, how many such nodes), node by node. weight_bytes, io_bytes: what must
    be read and written even if everything between were fused.
    """

    nodes: tuple[tuple[int, int, int], ...]
    weight_bytes: int
    io_bytes: int

    @property
    def flops(self) -> int:
        """All operations."""
        return sum(flops * count for flops, _, count in self.nodes)

    @property
    def bytes(self) -> int:
        """All bytes that nodes read and write, one by one."""
        return sum(moved * count for _, moved, count in self.nodes)

    @property
    def least_bytes(self) -> int:
        """What must be moved in any case."""
        return self.weight_bytes + self.io_bytes

    @classmethod
    def sum(cls, costs: Iterable["Cost"]) -> "Cost":
        """Of things that run one after another."""
        each = list(costs)
        nodes = tuple(node for cost in each for node in cost.nodes)
        weights = sum(cost.weight_bytes for cost in each)
        return cls(nodes, weights, sum(cost.io_bytes for cost in each))


def of_bundle(
    bundle: Bundle, arithmetic: Arithmetic, size: tuple[int, int], steps: int, batch: int
) -> dict[str, Cost]:
    """By stage, for pictures of `size` (width, height in pixels), `batch` at a time in UNet and VAE
    decoder; texts and photos are encoded once.

    Raises LightfillError if the onnx package is missing or a graph has an unknown operator.
    """
    try:
        from ..export.graph_cost import count
    except ImportError as error:
        raise LightfillError(
            f"counting a graph's operations needs {error.name}; `pip install 'lightfill[bench]'`"
        ) from error

    def cost(role: Role) -> Cost:
        name = bundle.unet(steps).component if role == "unet" else role
        counted = count(bundle.graph(name, arithmetic), role, _sizes(role, size, batch))
        nodes = tuple((node.flops, node.bytes, node.count) for node in counted.nodes)
        return Cost(nodes, counted.weight_bytes, counted.io_bytes)

    found = {stage: Cost.sum(map(cost, roles)) for stage, roles in COMPONENTS.items()}
    if "safety_checker" in bundle.manifest.components:
        found["safety"] = Cost.sum([cost("safety_checker")] * batch)
    return found


def of_sdxl(size: tuple[int, int]) -> dict[str, Cost]:
    """SDXL base 1.0's, float16, one picture of one of fal's presets."""
    table = json.loads(SDXL_COSTS.read_text(encoding="utf-8"))["components"]

    def cost(role: Role) -> Cost:
        entry = _entry(table[role], size)
        nodes = tuple((flops, moved, count) for _, flops, moved, count in entry["nodes"])
        return Cost(nodes, entry["weight_bytes"], entry["io_bytes"])

    return {stage: Cost.sum(map(cost, roles)) for stage, roles in COMPONENTS.items()}


def _entry(by_size: Mapping[str, Any], size: tuple[int, int]) -> Mapping[str, Any]:
    wanted = "{}x{}".format(*size)
    if "any" in by_size:
        return dict(by_size["any"])
    if wanted not in by_size:
        raise LightfillError(
            f"SDXL's costs at {wanted} are not in the table, which has {', '.join(by_size)}; "
            "choose one of those, or pass --bundle to count its own graphs"
        )
    return dict(by_size[wanted])


def _sizes(role: Role, size: tuple[int, int], batch: int) -> dict[str, int]:
    """As the pipeline feeds it: sides padded to multiples of 32 pixels."""
    width, height = (-(-side // 32) * 32 // PIXELS_PER_LATENT for side in size)
    together = batch if role in {"unet", "vae_decoder"} else 1
    return {"batch": together, "height": height, "width": width}
