"""Must-show 5: for a second key the first one's requests and files do not exist, on any route.

The routes are the application's own: one that is added later is tested here or fails here.
"""

import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import httpx2
import pytest
from fastapi.routing import iter_route_contexts
from keyed_server import KeyedServer, key_id
from running_server import ENDPOINT

from lightfill.engine.server import callers

BASE = "/queue/fal-ai/fast-lightning-sdxl"
NOBODYS = {
    "/health", "/ready", "/openapi.json", "/.well-known/jwks.json", "/rest/.well-known/jwks.json",
    "/metrics", "/", "/page/{path:path}", "/api/model",
}  # fmt: skip
"""Routes that have nothing of any caller's, whether or not they ask for a key."""
ASKS = {callers.find_caller, callers.find_uploader, callers.find_holder, callers.find_reader}
HOSTS = {"/queue": "queue.fal.run", "/run": "fal.run", "/rest": "rest.fal.ai", "/cdn": "fal.media"}


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    asks: bool

    @property
    def parameters(self) -> set[str]:
        return {each.partition("}")[0].partition(":")[0] for each in self.path.split("{")[1:]}


@dataclass(frozen=True)
class Mine:
    """What the first key has. A value's key is the path parameter it stands for."""

    requests: dict[str, str]
    uploaded: str
    one_file: dict[str, str]
    in_parts: list[dict[str, str]]

    def of(self, route: Route) -> Iterator[dict[str, str]]:
        """Path parameters, and maybe a query, with which the route is about something of mine."""
        if "request_id" in route.parameters:
            sub_paths = ("inpainting", "a/b") if "sub_path" in route.parameters else ("",)
            for request_id, sub_path in product(self.requests.values(), sub_paths):
                yield {"request_id": request_id, "sub_path": sub_path}
        elif "upload_id" in route.parameters:
            for upload in self.in_parts:
                yield {**upload, "number": "1"}
                yield {**upload, "number": "2"}
        elif "name" in route.parameters:
            yield {"name": self.uploaded}
            yield self.one_file
            for upload in self.in_parts:
                yield {"name": upload["name"]}


def routes(server: KeyedServer) -> list[Route]:
    app: Any = server.server.config.app
    found = []
    for each in iter_route_contexts(app.routes):
        assert each.path is not None, f"{each} is no plain route: say here how it is tested"
        needs = _dependencies(getattr(each, "dependant", None))
        found += [Route(method, each.path, bool(needs & ASKS)) for method in each.methods or ()]
    return found


def _dependencies(dependant: Any) -> set[Any]:
    if dependant is None:
        return set()
    return {dependant.call}.union(*map(_dependencies, dependant.dependencies))


@pytest.fixture(scope="module")
def mine(keyed_server: KeyedServer) -> Mine:
    """A request in every state, a file, and uploads in progress."""
    with keyed_server.me as me:
        requests = {}
        for state, prompt in (
            ("completed", "go"), ("failed", "refuse"), ("running", "wait"), ("waiting", "wait")
        ):  # fmt: skip
            reply = me.post(f"/queue/{ENDPOINT}", json={"prompt": prompt})
            requests[state] = reply.json()["request_id"]
        until(me, requests["failed"], "COMPLETED")
        until(me, requests["running"], "IN_PROGRESS")
        uploaded = me.post("/cdn/files/upload", content=b"mine").json()["access_url"]
        url = me.post("/rest/storage/upload/initiate", json={}).json()["upload_url"]
        name, _, sealed = name_of(url).partition("?upload=")
        rest = me.post("/rest/storage/upload/initiate-multipart", json={}).json()["upload_url"]
        begun = me.post("/cdn/files/upload/multipart").json()
        in_parts = [
            {"name": name_of(rest).partition("/")[0], "upload_id": rest.rpartition("/")[2]},
            {"name": name_of(begun["access_url"]), "upload_id": begun["uploadId"]},
        ]
        for each in in_parts:
            path = f"/files/{each['name']}/multipart/{each['upload_id']}/1"
            assert me.put(path, content=b"mine").status_code == 200
    return Mine(requests, name_of(uploaded), {"name": name, "upload": sealed}, in_parts)


def name_of(url: str) -> str:
    return url.partition("/files/")[2]


def until(client: httpx2.Client, request_id: str, state: str) -> None:
    for _ in range(500):
        if client.get(f"{BASE}/requests/{request_id}/status").json()["status"] == state:
            return
        time.sleep(0.01)
    raise AssertionError(f"{request_id} does not become {state}")


def filled(route: Route, values: dict[str, str]) -> str:
    path = re.sub(r":\w+}", "}", route.path).format(**values)
    return f"{path}?upload={values['upload']}" if "upload" in values else path


def spellings(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The path as callers may write it, the proxy's way included."""
    plain, _, query = path.partition("?")
    yield path, {}
    yield f"{plain}?logs=1&{query}", {}
    if not plain.startswith("/files/"):
        yield f"{plain}/", {}
    for prefix, host in HOSTS.items():
        if plain.startswith(prefix):
            target = {"x-fal-target-url": f"https://{host}{path.removeprefix(prefix)}"}
            yield "/api/fal/proxy", target


def test_every_route_is_known_here(keyed_server: KeyedServer) -> None:
    """A new one asks who calls, or is listed as having nothing of any caller's."""
    for route in routes(keyed_server):
        if route.path in NOBODYS:
            continue
        assert route.asks, f"{route.method} {route.path} does not ask who calls"
        known = {"request_id", "sub_path", "name", "upload_id", "number"}
        assert route.parameters <= known, f"say in Mine.of what {route} is about"
        own = "request_id" in route.parameters or "name" in route.parameters
        assert own or not route.parameters


def test_the_first_key_reaches_all_of_it(keyed_server: KeyedServer, mine: Mine) -> None:
    """Or else the 404s below would mean nothing."""
    with keyed_server.me as me:
        for route in routes(keyed_server):
            if not route.parameters or route.path in NOBODYS or route.method != "GET":
                continue
            (first, *_) = mine.of(route)
            reply = me.get(filled(route, first))
            assert reply.status_code in {200, 400}, (route, reply.text)


def test_for_a_second_key_nothing_of_it_exists(keyed_server: KeyedServer, mine: Mine) -> None:
    before = snapshot(keyed_server, mine)
    asked = 0
    with keyed_server.you as you, keyed_server.nobody as nobody:
        token = you.post("/rest/storage/auth/token").json()["token"]
        for route in routes(keyed_server):
            if route.path in NOBODYS:
                continue
            for values in mine.of(route):
                for path, headers in spellings(filled(route, values)):
                    foreign = ask(you, route, path, headers)
                    assert foreign.status_code == 404, (route, values, path, foreign.text)
                    unknown = ask(you, route, *unknown_one(values, path, headers))
                    assert told(foreign, values) == told(unknown, {}), (route, path)
                    asked += 1
                    if route.path.startswith("/files/"):
                        bearer = headers | {"authorization": f"Bearer {token}"}
                        assert ask(nobody, route, path, bearer).status_code == 404
    assert asked >= 100, "the routes were found"
    assert snapshot(keyed_server, mine) == before, "and nothing was changed by trying"


def ask(client: httpx2.Client, route: Route, path: str, headers: dict[str, str]) -> httpx2.Response:
    content = b'{"parts": [{"partNumber": 1, "etag": "x"}]}' if route.method != "GET" else None
    return client.request(route.method, path, headers=headers, content=content)


def unknown_one(
    values: dict[str, str], path: str, headers: dict[str, str]
) -> tuple[str, dict[str, str]]:
    """The same call about something that does not exist."""
    if "request_id" in values:
        old, new = values["request_id"], str(uuid.uuid4())
    else:
        old, new = values["name"], f"{uuid.uuid4().hex}.bin"
    return path.replace(old, new), {key: each.replace(old, new) for key, each in headers.items()}


def told(reply: httpx2.Response, values: dict[str, str]) -> tuple[Any, ...]:
    """What a caller learns, but for what is random."""
    text = reply.text
    for value in sorted(values.values(), key=len, reverse=True):
        text = text.replace(value, "*") if len(value) > 30 else text
    if not values:
        text = _without_ids(text)
    names = sorted(set(reply.headers) - {"date", "content-length"})
    return reply.status_code, text, names


def _without_ids(text: str) -> str:
    return re.sub(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}(\.bin)?", "*", text)


def snapshot(server: KeyedServer, mine: Mine) -> Any:
    """All that a second key could have changed."""
    files = server.site.files.storage.root
    with server.me as me:
        states = {
            state: me.get(f"{BASE}/requests/{request_id}/status").json()["status"]
            for state, request_id in mine.requests.items()
        }
        content = me.get(f"/files/{mine.uploaded}").content
    parts = sorted(path.name for path in files.glob("parts/*/*"))
    return states, content, parts, (files / mine.one_file["name"][:2]).exists()


def test_what_a_key_makes_is_its_own(keyed_server: KeyedServer) -> None:
    with keyed_server.you as you, keyed_server.me as me:
        url = you.post("/cdn/files/upload", content=b"x").json()["access_url"]
        assert keyed_server.site.files.open(url).owner == key_id(keyed_server.yours)
        assert me.get(url).status_code == 404
        submitted = you.post(f"/queue/{ENDPOINT}", json={"prompt": "go"}).json()
        assert me.get(submitted["status_url"]).status_code == 404
        assert you.get(submitted["status_url"]).status_code in {200, 202}


def test_every_pair_of_keys_is_separate(keyed_server: KeyedServer) -> None:
    """Not only the first two: an owner is compared, not whether there is one."""
    keys = [keyed_server.site.keys.create() for _ in range(3)]
    urls = {}
    for key in keys:
        with keyed_server.client(key) as client:
            urls[key] = client.post("/cdn/files/upload", content=key.encode()).json()["access_url"]
    for reader, owner in product(keys, keys):
        with keyed_server.client(reader) as client:
            assert client.get(urls[owner]).status_code == (200 if reader == owner else 404)
