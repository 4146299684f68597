"""The same with asyncio: a hosted text, a stream of events, and two requests at once."""

import asyncio
import base64
from pathlib import Path

from PIL import Image

import lightfill.fal as fal_client

here = Path(__file__).parent
APPLICATION = "fal-ai/fast-lightning-sdxl/inpainting"


async def main() -> None:
    print(await fal_client.upload_async(b"Hello, World!", "text/plain", "hello.txt"))

    arguments = {
        "image_url": await fal_client.upload_image_async(Image.open(here / "coffee.png"), "png"),
        "mask_url": here / "coffee-mask.png",  # in this process a path will do
        "image_size": {"width": 256, "height": 256},
        "format": "png",
        "sync_mode": True,  # the pictures come back as data URIs
    }
    async for event in fal_client.stream_async(APPLICATION, {**arguments, "prompt": "a red ball"}):
        print([log["message"] for log in event["logs"]] if "logs" in event else event["seed"])

    prompts = ("a green ball", "a yellow ball")
    results = await asyncio.gather(
        *(fal_client.subscribe_async(APPLICATION, {**arguments, "prompt": p}) for p in prompts)
    )
    Path("out").mkdir(exist_ok=True)
    for number, result in enumerate(results):
        _, _, data = result["images"][0]["url"].partition(",")
        Path(f"out/fal-async-{number}.png").write_bytes(base64.b64decode(data))


asyncio.run(main())
