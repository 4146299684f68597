"""The embedded model behind HTTP: a picture comes back, and its surroundings are the photo's."""

from io import BytesIO

import numpy as np
from fal_requests import SMALL, photo
from PIL import Image
from running_server import ENDPOINT, RunningServer

from lightfill.engine.pipeline import Inpainter


def test_a_picture_over_http_is_the_librarys_own(
    demo_server: RunningServer, demo_inpainter: Inpainter
) -> None:
    with demo_server.client() as client:
        reply = client.post(f"/run/{ENDPOINT}", json={**SMALL, "num_inference_steps": "4"})
        assert reply.status_code == 200
        output = reply.json()
        assert output["seed"] == SMALL["seed"]
        assert output["timings"]["inference"] > 0
        (image,) = output["images"]
        assert image["url"].startswith(f"{demo_server.origin}/files/")
        found = np.asarray(Image.open(BytesIO(client.get(image["url"]).content)))
    mask = Image.new("L", (90, 70))
    mask.paste(255, (20, 20, 60, 50))
    own = demo_inpainter(photo(), mask, SMALL["prompt"], image_size=(96, 64), seed=SMALL["seed"])
    np.testing.assert_array_equal(found, np.asarray(own.images[0]))
