"""What `make demo` runs: a photo, a mask and a prompt in; a picture and a strip out."""

import time
from pathlib import Path

from PIL import Image

from lightfill import Inpainter, Result

HERE = Path(__file__).parent
PROMPT = "a green ball"
GAP = 8


def main() -> None:
    start = time.perf_counter()
    with Inpainter.open() as inpainter:
        opened = time.perf_counter() - start
        # The demo model paints colours at 256x256; crop_to_mask lets the photo keep its size.
        result = inpainter(
            HERE / "coffee.png",
            HERE / "coffee-mask.png",
            PROMPT,
            image_size=(256, 256),
            crop_to_mask=0.3,
            strength=1,
            seed=1,
        )
    picture = result.save("out/demo.png")
    strip = Path("out/demo-strip.png")
    before_mask_after(result).save(strip)
    print(f'"{PROMPT}" with the embedded model on {result.device}, seed {result.seed}:')
    print(f"  {'open':<12}{opened * 1000:8.1f} ms")
    for stage, seconds in result.timings.as_dict().items():
        each = seconds if isinstance(seconds, list) else [seconds]
        print(f"  {stage:<12}" + "".join(f"{value * 1000:8.1f}" for value in each) + " ms")
    print(f"{picture}\n{strip}  (before | mask | after)")


def before_mask_after(result: Result) -> Image.Image:
    """Three pictures side by side."""
    panels = [Image.fromarray(result.source), Image.fromarray(result.mask), result.image]
    width, height = result.image.size
    strip = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for index, panel in enumerate(panels):
        strip.paste(panel.convert("RGB"), (index * (width + GAP), 0))
    return strip


if __name__ == "__main__":
    main()
