"""Files as inputs and results of requests, on the embedded model: each key has its own."""

import io
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import httpx2
import pytest
from fal_requests import SMALL, mask, photo
from keyed_server import KeyedServer, key_id, keyed
from running_server import ENDPOINT

from lightfill.engine.pipeline import Inpainter

TINY = {
    **SMALL,
    "image_size": {"width": 64, "height": 64},
    "num_inference_steps": 1,
    "enable_safety_checker": False,
}


@pytest.fixture(scope="module", params=[False, True], ids=["public", "private"])
def painting(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    demo_inpainter: Inpainter,
) -> Iterator[KeyedServer]:
    """A server that paints, whose files are read by URL alone or need a key as well."""
    folder = tmp_path_factory.mktemp("painting")
    with keyed(folder, demo_inpainter, private_files=request.param) as started:
        yield started


def paint(client: httpx2.Client, **arguments: Any) -> httpx2.Response:
    return client.post(f"/run/{ENDPOINT}", json={**TINY, **arguments})


def test_a_result_belongs_to_who_asked_for_it(painting: KeyedServer) -> None:
    with painting.me as me, painting.you as you:
        image = paint(me).json()["images"][0]
        assert painting.site.files.open(image["url"]).owner == key_id(painting.mine)
        assert me.get(image["url"]).headers["content-type"] == image["content_type"]
        assert you.get(image["url"]).status_code == 404
    if not painting.site.settings.private_files:
        with urlopen(image["url"]) as picture:  # as the endpoint's documentation reads results
            assert len(picture.read()) > 100


def test_an_uploaded_file_is_an_input_for_its_owner_alone(painting: KeyedServer) -> None:
    with painting.me as me, painting.you as you:
        urls = {}
        for field, picture in (("image_url", photo()), ("mask_url", mask())):
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            headers = {"content-type": "image/png"}
            uploaded = me.post("/cdn/files/upload", content=buffer.getvalue(), headers=headers)
            urls[field] = uploaded.json()["access_url"]
        assert paint(me, **urls).status_code == 200
        for field, url in urls.items():
            refused = paint(you, **{field: url})
            unknown = paint(you, **{field: f"{painting.origin}/files/{'0' * 32}.png"})
            assert refused.status_code == unknown.status_code == 422
            assert refused.json() == unknown.json(), "which of the two it is is not told"
            assert refused.json()["detail"][0]["loc"] == ["body", field]
            assert refused.json()["detail"][0]["type"] == "file_download_error"


@pytest.mark.parametrize("painting", [True], indirect=True, ids=["private"])
@pytest.mark.parametrize(
    "spelling", ["{url}?x", "{url}#x", "{origin}//files/{name}", "{localhost}/files/{name}"]
)
def test_no_spelling_of_its_url_lets_another_key_use_a_private_file(
    painting: KeyedServer, spelling: str
) -> None:
    """Fetched over the network the server meets itself as somebody without a key."""
    with painting.me as me, painting.you as you:
        url = me.post("/cdn/files/upload", content=b"x").json()["access_url"]
        spelt = spelling.format(
            url=url, origin=painting.origin, name=url.rpartition("/")[2],
            localhost=painting.origin.replace("127.0.0.1", "localhost"),
        )  # fmt: skip
        refused = paint(you, image_url=spelt)
        assert refused.status_code == 422
        assert refused.json()["detail"][0]["type"] == "file_download_error"
