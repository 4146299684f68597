"""Sizes, hosts and origins; what holds for every route."""

import pytest
from running_server import ENDPOINT, RunningServer, running
from scripted_endpoint import ScriptedEndpoint

from lightfill.engine.fal.settings import Settings

STATUS = "/queue/fal-ai/fast-lightning-sdxl/requests/x/status"


def test_bodies_over_the_limit_are_refused_whole_and_in_chunks(
    settings: Settings, scripted: type[ScriptedEndpoint], tmp_path: object
) -> None:
    small = Settings(data_dir=settings.data_dir, port=0, max_request_bytes=1000)
    with running(small) as server, server.client() as client:
        whole = client.post(f"/queue/{ENDPOINT}", content=b" " * 1001)
        pieces = client.post(f"/queue/{ENDPOINT}", content=iter([b" " * 600] * 2))
        for reply in (whole, pieces):
            assert reply.status_code == 413
            assert "1000 bytes" in reply.json()["detail"]
            assert reply.headers["x-fal-request-id"]
        fits = client.post(f"/queue/{ENDPOINT}", content=b'{"prompt": "go"}' + b" " * 900)
        assert fits.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]", "[", "a]b"]
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(
    server: RunningServer, host: str
) -> None:
    with server.client() as client:
        reply = client.get(STATUS, headers={"host": host})
    assert reply.status_code in {400, 403}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST:99", "[::1]:8765"])
def test_this_machines_own_names_are_taken(server: RunningServer, host: str) -> None:
    with server.client() as client:
        assert client.get(STATUS, headers={"host": host}).status_code == 404


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403), ("null", 403), ("http://127.0.0.1:1", 403),
        ("http://[", 403), ("own", 404), ("https://friend.example", 404),
    ],
)  # fmt: skip
def test_without_keys_only_known_pages_may_call(
    settings: Settings, scripted: type[ScriptedEndpoint], origin: str, status: int
) -> None:
    with (
        running(
            Settings(data_dir=settings.data_dir, port=0, cors_origins="https://friend.example/")
        ) as server,
        server.client() as client,
    ):
        own = server.origin if origin == "own" else origin
        reply = client.get(STATUS, headers={"origin": own})
        assert reply.status_code == status
        allowed = reply.headers.get("access-control-allow-origin")
        assert allowed == (origin if origin == "https://friend.example" else None)


def test_the_document_holds_fals_schema_and_every_route(server: RunningServer) -> None:
    from lightfill.engine.fal.schema import InpaintingInput

    with server.client() as client:
        document = client.get("/openapi.json").json()
    own = InpaintingInput.model_json_schema(ref_template="#/components/schemas/{model}")
    own.pop("$defs")
    assert document["components"]["schemas"]["InpaintingLightningInput"] == own
    assert {f"/queue/{ENDPOINT}", f"/run/{ENDPOINT}", "/health", "/ready"} <= set(document["paths"])
    assert document["components"]["securitySchemes"]["apiKeyAuth"]["name"] == "Authorization"
