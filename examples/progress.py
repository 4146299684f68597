"""Follow a request step by step, and stop one that takes too long."""

import time
from pathlib import Path

from lightfill import Cancelled, Inpainter, Progress

here = Path(__file__).parent
out = Path("out")
out.mkdir(exist_ok=True)
deadline = time.monotonic() + 60


def on_step(progress: Progress) -> bool:
    print(f"step {progress.step} of {progress.of}")
    progress.preview().save(out / f"progress-{progress.step}.png")  # a small picture so far
    return time.monotonic() < deadline  # False cancels


with Inpainter.open() as inpainter:
    try:
        inpainter(
            here / "coffee.png", here / "coffee-mask.png", "a yellow ball",
            image_size="256x256", crop_to_mask=0.3, strength=1, steps=8, on_step=on_step,
        ).save(out / "progress.png")  # fmt: skip
    except Cancelled as stopped:
        print(stopped)
