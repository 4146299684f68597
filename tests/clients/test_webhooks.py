"""Webhooks asked for by every client, delivered to a server of the test, and verified."""

import base64
from collections.abc import Iterator, Sequence

import pytest
from patched_fal_client import Fal
from running_server import ENDPOINT, RunningServer
from scripted_endpoint import OUTPUT
from webhook_receiver import Receiver, Told, receiving, verified

import lightfill.fal

from .conftest import FILES, SCRIPTS, JavaScript, Node

GOES = {**FILES, "prompt": "go"}
FAILS = {**FILES, "prompt": "refuse"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


def check(server: RunningServer, receiver: Receiver, ids: Sequence[str]) -> list[Told]:
    """The webhooks of one request that succeeded and one that failed."""
    told = receiver.wait_for(2)
    bodies = {each.body["request_id"]: each.body for each in told}
    well, badly = (bodies[request_id] for request_id in ids)
    assert (well["status"], well["payload"]) == ("OK", OUTPUT)
    assert (badly["status"], badly["error"]) == ("ERROR", "Invalid status code: 422")
    assert badly["payload"]["detail"][0]["loc"] == ["body", "mask_url"]
    for each in told:
        assert each.body["gateway_request_id"] == each.body["request_id"]
        assert verified(f"{server.origin}/.well-known/jwks.json", each)
    return told


def test_javascript_s(
    javascript: JavaScript, node: Node, server: RunningServer, receiver: Receiver
) -> None:
    ids = javascript.report(
        "webhook", server, webhookUrl=f"{receiver.url}/hook?from=js", inputs=[GOES, FAILS]
    )
    told = check(server, receiver, ids)
    assert {each.path for each in told} == {"/hook?from=js"}
    webhooks = [
        {"headers": dict(each.headers), "body": base64.b64encode(content).decode()}
        for each in told
        for content in (each.content, each.content + b" ")
    ]
    genuine = node.report(
        SCRIPTS / "verify_webhook.mjs", parameters={"webhooks": webhooks}, ORIGIN=server.origin
    )
    assert genuine == [True, False, True, False]


def test_fal_client_s(fal: Fal, server: RunningServer, receiver: Receiver) -> None:
    ids = [
        fal.submit(ENDPOINT, arguments, webhook_url=receiver.url).request_id
        for arguments in (GOES, FAILS)
    ]
    check(server, receiver, ids)


def test_lightfill_fal_s(server: RunningServer, receiver: Receiver) -> None:
    client = lightfill.fal.SyncClient(base_url=server.origin)
    ids = [
        client.submit(ENDPOINT, arguments, webhook_url=receiver.url).request_id
        for arguments in (GOES, FAILS)
    ]
    check(server, receiver, ids)
    lightfill.fal.shutdown()
