"""`make demo-bundle`: export the embedded default model from its checkpoint in this repository."""

import shutil
from pathlib import Path

from ..engine.bundle import DEMO_BUNDLE
from .bundle_writer import export_bundle
from .progress import Progress
from .request import ExportRequest

CHECKPOINT = Path(__file__).parent / "demo" / "lightfill-demo"


class _Printed(Progress):
    def stage(self, name: str, what: str) -> None:
        print(name, what, flush=True)


def main() -> None:
    """Replace the embedded bundle; the old one stays until the new one is complete."""
    made = DEMO_BUNDLE.with_name("demo_bundle_new")
    request = ExportRequest(out=made, base=CHECKPOINT, name="lightfill-demo", natural_size=256)
    export_bundle(request, _Printed())
    shutil.rmtree(DEMO_BUNDLE, ignore_errors=True)
    made.rename(DEMO_BUNDLE)


if __name__ == "__main__":
    main()
