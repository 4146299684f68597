"""Servers that ask for keys, and the ways to point fal's JavaScript clients at a server."""

from keyed_server import KeyedServer
from scripted_endpoint import OUTPUT

from .conftest import FILES, JavaScript, scripted_of

GO = {**FILES, "prompt": "go"}


def test_without_a_known_key_everything_is_a_401(
    javascript: JavaScript, keyed_server: KeyedServer
) -> None:
    request_id = javascript.report("subscribe", keyed_server, key=keyed_server.mine, input=GO)
    for key in ("no:body", "malformed"):
        told = javascript.report("keys", keyed_server, key=key, requestId="x", input=GO)
        for call, each in told.items():
            assert (each["name"], each["status"]) == ("ApiError", 401), call
            assert each["body"]["detail"]
    assert request_id["output"] == OUTPUT


def test_another_s_request_is_a_404(javascript: JavaScript, keyed_server: KeyedServer) -> None:
    with keyed_server.me as me:
        url = "/queue/fal-ai/fast-lightning-sdxl/inpainting"
        request_id = me.post(url, json=GO).json()["request_id"]
    told = javascript.report("others", keyed_server, key=keyed_server.yours, requestId=request_id)
    assert {call: each["status"] for call, each in told.items()} == {
        "status": 404, "result": 404, "cancel": 404,
    }  # fmt: skip


def test_other_ways_to_a_server_with_keys(otherwise: JavaScript, keyed_server: KeyedServer) -> None:
    gate = scripted_of(keyed_server).gate
    given = {**FILES, "prompt": "wait"}
    for script in ("subscribe", "queue", "streams"):
        gate.clear()
        told = otherwise.report(
            script, keyed_server, key=keyed_server.mine, heard=lambda _: gate.set(),
            input=given,
        )  # fmt: skip
        assert OUTPUT in (told.get("output"), told.get("last"))
    told = otherwise.report("keys", keyed_server, key="no:body", requestId="x", input=GO)
    assert {each["status"] for each in told.values()} == {401}
