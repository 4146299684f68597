"""`python -m lightfill.export.cost_table`: what SDXL costs, counted without weights.

Traces SDXL base 1.0's architecture and counts its graphs at fal's presets. The table lies beside
the benchmarks (bench/sdxl-costs.json), so that `lightfill bench --predict` needs neither a bundle
nor PyTorch.
"""

import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..engine.atomic_write import write_atomically
from ..engine.components import PIXELS_PER_LATENT
from ..engine.manifest import Arithmetic, Role
from .architecture import build
from .base import kind_of
from .graph_cache import traced
from .graph_cost import count_model
from .synthetic import synthetic_configs

TABLE = Path(__file__).parents[1] / "bench" / "sdxl-costs.json"
SCHEMA_VERSION = 1
ROLES: tuple[Role, ...] = (
    "text_encoder",
    "text_encoder_2",
    "vae_encoder",
    "unet",
    "vae_decoder",
)
SIZES = ((1024, 1024), (512, 512), (768, 1024), (576, 1024), (1024, 768), (1024, 576))
"""fal's presets, width and height in pixels."""
_ARITHMETIC: Arithmetic = "float16"  # what GPUs run, and predictions are for GPUs


def main() -> None:
    """Write the table."""
    write_atomically(TABLE, (json.dumps(table("sdxl"), indent=None) + "\n").encode())
    print(TABLE)


def table(
    kind: str,
    sizes: Sequence[tuple[int, int]] = SIZES,
    arithmetic: Arithmetic = _ARITHMETIC,
) -> dict[str, Any]:
    """Costs by role and size "WIDTHxHEIGHT", one picture.

    Nodes are [operator, flops, bytes, count]. Roles that a size does not change are there
    once, under "any".
    """
    configs = synthetic_configs(kind)
    counted: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        component = build(role, configs[kind_of(role)], f"{kind}: {role}")
        model = ir.to_proto(traced(component, arithmetic))
        changes = role in {"unet", "vae_encoder", "vae_decoder"}
        counted[role] = {}
        for width, height in sizes if changes else [(512, 512)]:
            cost = count_model(
                model,
                role,
                {
                    "batch": 1,
                    "height": height // PIXELS_PER_LATENT,
                    "width": width // PIXELS_PER_LATENT,
                },
            )
            counted[role][f"{width}x{height}" if changes else "any"] = {
                "nodes": [list(astuple(node)) for node in cost.nodes],
                "weight_bytes": cost.weight_bytes,
                "io_bytes": cost.io_bytes,
            }
    return {
        "schema_version": SCHEMA_VERSION,
        "model": f"{kind} architecture, {arithmetic}",
        "arithmetic": arithmetic,
        "components": counted,
    }


if __name__ == "__main__":
    main()
