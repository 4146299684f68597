"""The endpoint's documentation, its JavaScript calls translated to fal_client's Python one to one.

They run on the embedded bundle, in this process and on a server. The two pictures come from an HTTP
server of this test, under the file names the documentation has.
"""

import asyncio
import base64
import io
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from lightfill.engine.fal.schema import InpaintingOutput
from lightfill.engine.fal.settings import Settings
from lightfill.engine.pipeline import Inpainter

EXAMPLES = Path(__file__).parents[4] / "examples"
NAME = "overture-creations-5sI6fQgYIuo"
APP = "fal-ai/fast-lightning-sdxl/inpainting"


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def demo_fal(demo_somewhere: ModuleType) -> ModuleType:
    return demo_somewhere


SMALL = {"width": 256, "height": 256}


@pytest.fixture
def documented(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The documentation's `input`."""
    for ending, source in (("", "coffee"), ("_mask", "coffee-mask")):
        picture = (EXAMPLES / f"{source}.png").read_bytes()
        (tmp_path / f"{NAME}{ending}.png").write_bytes(picture)
    handler = partial(Silent, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        here = f"http://127.0.0.1:{server.server_port}"
        yield {
            "image_url": f"{here}/{NAME}.png",
            "mask_url": f"{here}/{NAME}_mask.png",
            "prompt": "a tiger sitting on a park bench",
        }
        server.shutdown()
        thread.join()


@pytest.fixture
def arguments(documented: dict[str, Any]) -> dict[str, Any]:
    """The same in a size that takes a fraction of a second."""
    return {**documented, "image_size": SMALL}


def check_output(output: dict[str, Any], size: tuple[int, int] = (256, 256)) -> None:
    """The documented output, with a picture behind its URL."""
    InpaintingOutput.model_validate(output)
    assert set(output) == {"images", "timings", "seed", "has_nsfw_concepts", "prompt"}
    (image,) = output["images"]
    assert (image["width"], image["height"]) == size
    assert image["content_type"] == "image/jpeg"
    with urllib.request.urlopen(image["url"]) as file:
        assert Image.open(io.BytesIO(file.read())).size == size
    assert output["prompt"] == "a tiger sitting on a park bench"
    assert output["has_nsfw_concepts"] == [False]
    assert output["timings"]["inference"] > 0


def test_submit_a_request(
    demo_fal: ModuleType, arguments: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    fal_client = demo_fal
    updates = []

    def on_queue_update(update: Any) -> None:
        updates.append(update)
        if isinstance(update, fal_client.InProgress):
            for log in update.logs:
                print(log["message"])

    result = fal_client.subscribe(
        APP, arguments=arguments, with_logs=True, on_queue_update=on_queue_update
    )
    check_output(result)
    assert "step 1/3" in capsys.readouterr().out
    assert isinstance(updates[-1], fal_client.Completed)
    assert [log["message"][:8] for log in updates[-1].logs][:3] == [
        f"step {k}/3" for k in (1, 2, 3)
    ]
    assert updates[-1].metrics["inference_time"] > 0


def test_queue_submit_status_result(demo_fal: ModuleType, arguments: dict[str, Any]) -> None:
    fal_client = demo_fal
    handler = fal_client.submit(
        APP, arguments=arguments, webhook_url="https://optional.webhook.url/for/results"
    )
    request_id = handler.request_id
    assert str(uuid.UUID(request_id)) == request_id

    status = fal_client.status(APP, request_id, with_logs=True)
    assert isinstance(status, fal_client.Queued | fal_client.InProgress | fal_client.Completed)

    result = fal_client.result(APP, request_id)
    check_output(result)
    assert handler.get() == result
    assert isinstance(fal_client.status(APP, request_id), fal_client.Completed)


def test_files_as_data_uris(demo_fal: ModuleType, arguments: dict[str, Any]) -> None:
    fal_client = demo_fal
    result = fal_client.run(
        APP,
        arguments={
            **arguments,
            "image_url": fal_client.encode_file(EXAMPLES / "coffee.png"),
            "mask_url": fal_client.encode_image(Image.open(EXAMPLES / "coffee-mask.png"), "png"),
        },
    )
    check_output(result)


def test_uploading_files(demo_fal: ModuleType, arguments: dict[str, Any], tmp_path: Path) -> None:
    fal_client = demo_fal
    url = fal_client.upload("Hello, World!", "text/plain", "hello.txt")
    with urllib.request.urlopen(url) as file:
        assert file.read() == b"Hello, World!"

    (tmp_path / "hello.txt").write_text("Hello, World!", encoding="utf-8")
    assert fal_client.upload_file(tmp_path / "hello.txt") != url

    uploaded = {
        "image_url": fal_client.upload_file(EXAMPLES / "coffee.png"),
        "mask_url": fal_client.upload_image(Image.open(EXAMPLES / "coffee-mask.png"), "png"),
        "image_size": {"width": 256, "height": 192},
    }
    check_output(fal_client.run(APP, {**arguments, **uploaded}), (256, 192))


@pytest.mark.slow  # 1024x1024 on a CPU, twice
def test_the_documentation_s_input_as_it_stands(
    fal: ModuleType, settings: Settings, demo_inpainter: Inpainter, documented: dict[str, Any]
) -> None:
    fal.configure(settings, inpainter=demo_inpainter)
    check_output(fal.subscribe(APP, documented), (1024, 1024))
    spelt_out = {
        **documented,
        "image_size": "square_hd", "num_inference_steps": 4, "strength": 0.95, "num_images": 1,
        "embeddings": [], "format": "jpeg",
    }  # fmt: skip
    check_output(fal.subscribe(APP, spelt_out), (1024, 1024))


def test_sync_mode_gives_the_picture_in_the_answer(
    demo_fal: ModuleType, arguments: dict[str, Any]
) -> None:
    small = {**arguments, "image_size": {"width": 64, "height": 64}, "sync_mode": True}
    (image,) = demo_fal.run(APP, small)["images"]
    header, _, data = image["url"].partition(",")
    assert header == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 64)


def test_the_same_with_asyncio(demo_fal: ModuleType, arguments: dict[str, Any]) -> None:
    fal_client = demo_fal
    small = {**arguments, "image_size": {"width": 64, "height": 64}}

    async def main() -> None:
        told: list[Any] = []

        async def on_queue_update(update: Any) -> None:
            await asyncio.sleep(0)
            told.append(update)

        result = await fal_client.subscribe_async(
            APP, small, with_logs=True, on_enqueue=told.append, on_queue_update=on_queue_update
        )
        check_output(result, (64, 64))
        assert str(uuid.UUID(told[0])) == told[0]
        assert isinstance(told[-1], fal_client.Completed)

        handler = await fal_client.submit_async(APP, small)
        async for event in handler.iter_events(with_logs=True):
            assert isinstance(event, fal_client.Status)
        check_output(await handler.get(), (64, 64))
        assert await fal_client.result_async(APP, handler.request_id) == await handler.get()
        assert await fal_client.status_async(APP, handler.request_id) == await handler.status()

        url = await fal_client.upload_file_async(EXAMPLES / "coffee.png")
        check_output(await fal_client.run_async(APP, {**small, "image_url": url}), (64, 64))
        events = [event async for event in fal_client.stream_async(APP, small)]
        check_output(events[-1], (64, 64))
        assert [event["status"] for event in events[:-1]]

    asyncio.run(main())
