"""`make demo-bundle`: export the embedded default model from its checkpoint in this repository."""

import shutil
from pathlib import Path

from ..engine.bundle import DEMO_BUNDLE
from ..engine.manifest import Source
from .bundle_writer import ExportOptions, export_bundle

CHECKPOINT = Path(__file__).parent / "demo" / "checkpoint"
OPTIONS = ExportOptions(
    name="lightfill-demo",
    natural_size=256,
    source=Source(checkpoint="export/demo/checkpoint", revision="1"),
)


def main() -> None:
    """Replace the embedded bundle; the old one stays until the new one is complete."""
    made = DEMO_BUNDLE.with_name("demo_bundle_new")
    export_bundle(CHECKPOINT, made, OPTIONS, lambda name, kind: print(name, kind, flush=True))
    shutil.rmtree(DEMO_BUNDLE, ignore_errors=True)
    made.rename(DEMO_BUNDLE)


if __name__ == "__main__":
    main()
