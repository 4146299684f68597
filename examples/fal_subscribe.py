"""fal's documented call, in this process: subscribe, follow the logs, read the picture."""

import shutil
from pathlib import Path
from urllib.request import urlopen

import lightfill.fal as fal_client

here = Path(__file__).parent


def on_queue_update(update: fal_client.Status) -> None:
    if isinstance(update, fal_client.InProgress):
        for log in update.logs or []:
            print(log["message"])


result = fal_client.subscribe(
    "fal-ai/fast-lightning-sdxl/inpainting",
    arguments={
        "image_url": fal_client.upload_file(here / "coffee.png"),
        "mask_url": fal_client.encode_file(here / "coffee-mask.png"),
        "prompt": "a green ball",
        "image_size": {"width": 256, "height": 256},  # the demo model paints colours at this size
        "format": "png",
    },
    with_logs=True,
    on_queue_update=on_queue_update,
)
print(result)

picture = Path("out/fal-subscribe.png")
picture.parent.mkdir(exist_ok=True)
with urlopen(result["images"][0]["url"]) as source, picture.open("wb") as target:
    shutil.copyfileobj(source, target)
