"""PyPI fal-client before a server that asks for keys."""

from collections.abc import Callable
from typing import Any

import fal_client
import httpx
import pytest
from keyed_server import KeyedServer
from patched_fal_client import Make
from running_server import ENDPOINT
from scripted_endpoint import OUTPUT

from .conftest import FILES, scripted_of

GO = {**FILES, "prompt": "go"}


def refused(call: Callable[..., Any], *args: Any) -> Any:
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        call(*args)
    return caught.value


def test_keys_open_and_part(make: Make, keyed_server: KeyedServer) -> None:
    mine, yours = (make(keyed_server, key) for key in (keyed_server.mine, keyed_server.yours))
    handle = mine.submit(ENDPOINT, GO)
    assert mine.done(handle.get()) == mine.result(ENDPOINT, handle.request_id) == OUTPUT
    stored = keyed_server.site.files.open(mine.upload(b"x", "text/plain"))
    assert stored.owner == keyed_server.mine.partition(":")[0]
    for call in (yours.status, yours.result, yours.cancel):
        assert refused(call, ENDPOINT, handle.request_id).status_code == 404


@pytest.mark.parametrize("key", ["no:body", "malformed"])
def test_an_unknown_key_is_a_401(make: Make, keyed_server: KeyedServer, key: str) -> None:
    fal = make(keyed_server, key)
    for call in (fal.run, fal.submit, fal.subscribe):
        error = refused(call, ENDPOINT, GO)
        assert (error.status_code, isinstance(error.message, str)) == (401, True)
    assert refused(fal.status, ENDPOINT, "x").status_code == 401
    with pytest.raises(httpx.HTTPStatusError, match="401"):  # its token has no error of its own
        fal.upload(b"x", "text/plain", fallback_repository=[])
    assert scripted_of(keyed_server).ran == []
