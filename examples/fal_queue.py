"""The queue: submit several requests, look at one, cancel one, fetch the others' results."""

import shutil
from pathlib import Path
from urllib.request import urlopen

import lightfill.fal as fal_client

here = Path(__file__).parent
APPLICATION = "fal-ai/fast-lightning-sdxl/inpainting"

arguments = {
    "image_url": fal_client.upload_file(here / "coffee.png"),
    "mask_url": fal_client.upload_file(here / "coffee-mask.png"),
    "image_size": {"width": 256, "height": 256},
    "format": "png",
}
colours = ("green", "yellow", "blue")
handlers = [
    fal_client.submit(APPLICATION, {**arguments, "prompt": f"a {colour} ball"})
    for colour in colours
]

# Another program can go on with the id alone, if it uses the same LIGHTFILL_DATA_DIR.
request_id = handlers[0].request_id
print(fal_client.status(APPLICATION, request_id, with_logs=True))
fal_client.cancel(APPLICATION, handlers[2].request_id)

result = fal_client.result(APPLICATION, request_id)
print(fal_client.status(APPLICATION, request_id))

Path("out").mkdir(exist_ok=True)
for colour, output in (("green", result), ("yellow", handlers[1].get())):
    picture = Path(f"out/fal-queue-{colour}.png")
    with urlopen(output["images"][0]["url"]) as source, picture.open("wb") as target:
        shutil.copyfileobj(source, target)
    print(picture)

try:
    handlers[2].get()
except fal_client.FalClientHTTPError as error:
    print(error.status_code, error)
