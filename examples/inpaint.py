"""Paint a green ball onto the table, in three lines."""

from pathlib import Path

from lightfill import Inpainter

here = Path(__file__).parent

with Inpainter.open() as inpainter:
    result = inpainter(
        here / "coffee.png", here / "coffee-mask.png", "a green ball",
        image_size=(256, 256), crop_to_mask=0.3, strength=1, seed=1,
    )  # fmt: skip
    print(result.save("out/inpaint.png"))
