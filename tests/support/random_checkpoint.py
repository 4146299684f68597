"""A random SDXL-shaped checkpoint, as small as the topology allows, and its bundle.

Random epsilon weights exercise what the trained demo model (v-prediction) does not. Its shape is
that of `--synthetic tiny`, so that one trace serves every test that exports.
"""

from pathlib import Path

import torch
from original_layout import tiny_sdxl
from run_directory import made_once

from lightfill.export.bundle_writer import export_bundle
from lightfill.export.request import ExportRequest

ROOT = Path(__file__).parents[2]
DEMO_CHECKPOINT = ROOT / "export" / "demo" / "lightfill-demo"
SCALING_FACTOR = 0.13025
WIDTHS = {"text_encoder": 16, "text_encoder_2": 24}


def checkpoint_in(directory: Path) -> Path:
    """The checkpoint as a diffusers folder, float16, written on the first call."""
    folder = directory / "random-checkpoint"
    with made_once(folder) as missing:
        if missing:
            tiny_sdxl().to(torch.float16).save_pretrained(folder)
            (folder / "LICENSE.md").write_text("Random numbers; do what you like.\n")
    return folder


def bundle_in(directory: Path) -> Path:
    """The checkpoint's bundle, exported on the first call (about a minute)."""
    bundle = directory / "random-bundle"
    base = checkpoint_in(directory)
    with made_once(bundle) as missing:
        if missing:
            export_bundle(ExportRequest(out=bundle, base=base, name="random", natural_size=64))
    return bundle
