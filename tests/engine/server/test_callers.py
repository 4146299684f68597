"""Who may call: fal's 401s word for word, tokens for uploads only, and no key in any log."""

import logging
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from keyed_server import KeyedServer, key_id, keyed
from running_server import ENDPOINT, RunningServer

from lightfill.engine.errors import DatabaseUnavailable, InvalidInput
from lightfill.engine.fal.database import Database
from lightfill.engine.fal.settings import Settings
from lightfill.engine.server import serve as serve_module
from lightfill.engine.server.keys import KeyStore
from lightfill.engine.server.serve import bound

QUEUE = "/queue/fal-ai/fast-lightning-sdxl"
NO_KEY = (
    'Cannot access application "fal-ai/fast-lightning-sdxl". Authentication is required to access '
    "this application."
)
MALFORMED = "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."
UNKNOWN = "No user found for Key ID and Secret"
NOBODY = "00000000-0000-4000-8000-000000000000"


def submit(client: httpx2.Client, authorization: str | bytes | None) -> httpx2.Response:
    headers: Any = {} if authorization is None else {"authorization": authorization}
    return client.post(f"/queue/{ENDPOINT}", json={"prompt": "go"}, headers=headers)


@pytest.mark.parametrize(
    ("authorization", "detail"),
    [
        (None, NO_KEY), ("", NO_KEY), ("Key", MALFORMED), ("Key id", MALFORMED),
        ("Key :", MALFORMED), ("Key id:", MALFORMED), ("Key :secret", MALFORMED),
        ("Key id:secret", UNKNOWN), (f"Key {NOBODY}:{'0' * 64}", UNKNOWN), ("Key a:b:c", UNKNOWN),
        ("Basic aWQ6c2VjcmV0", NO_KEY), ("Bearer id:secret", NO_KEY), ("id:secret", NO_KEY),
        (b"Key \xfc:\xfc", UNKNOWN),
    ],
)  # fmt: skip
def test_fals_own_words_for_who_may_not_call(
    keyed_server: KeyedServer, authorization: str | bytes | None, detail: str
) -> None:
    with keyed_server.nobody as client:
        reply = submit(client, authorization)
    assert (reply.status_code, reply.json()) == (401, {"detail": detail})
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["www-authenticate"].startswith("Key ")
    assert reply.headers["x-fal-request-id"]


def test_a_wrong_secret_and_a_wrong_id_read_the_same(keyed_server: KeyedServer) -> None:
    name, _, secret = keyed_server.mine.partition(":")
    with keyed_server.nobody as client:
        replies = [
            submit(client, f"Key {wrong}")
            for wrong in (f"{name}:{secret[:-1]}", f"{NOBODY}:{secret}", f"{name}:{'0' * 64}")
        ]
    assert [(reply.status_code, reply.json()) for reply in replies] == [
        (401, {"detail": UNKNOWN})
    ] * 3
    assert len({str(sorted(set(reply.headers) - {"date"})) for reply in replies}) == 1


@pytest.mark.parametrize("scheme", ["Key", "key", "KEY  "])
def test_a_key_opens_everything_of_its_owner(keyed_server: KeyedServer, scheme: str) -> None:
    with keyed_server.nobody as client:
        reply = submit(client, f"{scheme} {keyed_server.mine}")
        assert reply.status_code == 200
        (listed,) = [
            key for key in keyed_server.site.keys.listed() if key.id == key_id(keyed_server.mine)
        ]
        assert listed.last_used is not None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/run/{ENDPOINT}"), ("GET", f"/run/{ENDPOINT}"),
        ("POST", f"/run/{ENDPOINT}/stream"), ("GET", f"{QUEUE}/requests/x/status"),
        ("GET", f"{QUEUE}/requests/x/status/stream"), ("GET", f"{QUEUE}/requests/x"),
        ("PUT", f"{QUEUE}/requests/x/cancel"), ("POST", "/rest/storage/auth/token"),
        ("POST", "/rest/storage/upload/initiate"), ("POST", "/cdn/files/upload"),
        ("POST", "/rest/storage/upload/initiate-multipart"),
        ("POST", "/cdn/files/upload/multipart"),
    ],
)  # fmt: skip
def test_every_route_of_the_api_asks_for_a_key(
    keyed_server: KeyedServer, method: str, path: str
) -> None:
    with keyed_server.nobody as client:
        assert client.request(method, path).status_code == 401
        assert client.request(method, path, headers={"authorization": "Key a:b"}).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json"])
def test_these_need_no_key(keyed_server: KeyedServer, path: str) -> None:
    with keyed_server.nobody as client:
        assert client.get(path).status_code == 200


def test_an_upload_token_is_for_uploads_only(keyed_server: KeyedServer) -> None:
    with keyed_server.me as me:
        token = me.post("/rest/storage/auth/token", json={}).json()
    bearer = {"authorization": f"{token['token_type']} {token['token']}"}
    with keyed_server.nobody as client:
        url = client.post("/cdn/files/upload", content=b"x", headers=bearer).json()["access_url"]
        assert keyed_server.site.files.open(url).owner == key_id(keyed_server.mine)
        assert submit(client, bearer["authorization"]).status_code == 401
        assert client.post("/rest/storage/auth/token", headers=bearer).status_code == 401
        for forged in (token["token"][:-8] + "AAAAAAAA", "x", "x.y.z", keyed_server.mine):
            reply = client.post(
                "/cdn/files/upload", content=b"x", headers={"authorization": f"Bearer {forged}"}
            )
            assert reply.status_code == 401
            assert "token" in reply.json()["detail"]


def test_a_token_expires(keyed_server: KeyedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with keyed_server.me as me, keyed_server.nobody as client:
        token = me.post("/rest/storage/auth/token").json()["token"]
        headers = {"authorization": f"Bearer {token}"}
        assert client.post("/cdn/files/upload", content=b"x", headers=headers).status_code == 200
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3601)
        assert client.post("/cdn/files/upload", content=b"x", headers=headers).status_code == 401


def test_a_revoked_key_opens_nothing_nor_do_its_token_and_upload_urls(
    keyed_server: KeyedServer,
) -> None:
    key = keyed_server.site.keys.create("short-lived")
    with keyed_server.client(key) as client, keyed_server.nobody as nobody:
        token = client.post("/rest/storage/auth/token").json()["token"]
        urls = client.post("/rest/storage/upload/initiate", json={}).json()
        parts = client.post("/rest/storage/upload/initiate-multipart", json={}).json()
        assert keyed_server.site.keys.revoke(key_id(key))
        assert client.get(f"{QUEUE}/requests/x").json() == {"detail": UNKNOWN}
        bearer = {"authorization": f"Bearer {token}"}
        assert nobody.post("/cdn/files/upload", content=b"x", headers=bearer).status_code == 401
        assert nobody.put(urls["upload_url"], content=b"x").status_code == 404
        assert nobody.put(f"{parts['upload_url']}/1", content=b"x").status_code == 404


def test_a_key_revoked_by_another_process_works_no_longer_than_a_second(
    keyed_server: KeyedServer,
) -> None:
    key = keyed_server.site.keys.create()
    database = Database(keyed_server.site.settings.database)
    with keyed_server.client(key) as client:
        assert client.get(f"{QUEUE}/requests/x").status_code == 404
        KeyStore(database).revoke(key_id(key))
        database.close()
        give_up = time.monotonic() + 2
        while client.get(f"{QUEUE}/requests/x").status_code != 401:
            assert time.monotonic() < give_up
            time.sleep(0.05)


def test_no_key_and_no_upload_url_is_in_any_log_or_error(
    keyed_server: KeyedServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    caplog.set_level(logging.DEBUG)
    secret = keyed_server.mine.partition(":")[2]
    with keyed_server.me as client:
        url = client.post("/rest/storage/upload/initiate", json={}).json()["upload_url"]
        parts = client.post("/rest/storage/upload/initiate-multipart", json={}).json()
        monkeypatch.setattr(keyed_server.site.service, "glance", broken)
        monkeypatch.setattr(keyed_server.site.files.storage, "keep", broken)
        monkeypatch.setattr(keyed_server.site.files.parts, "keep", broken)
        replies = [
            client.get(f"{QUEUE}/requests/x/status"),
            client.put(url, content=b"x"),
            client.put(f"{parts['upload_url']}/1", content=b"x"),
            submit(client, f"Key {keyed_server.mine}x"),
        ]
    assert [reply.status_code for reply in replies] == [500, 500, 500, 401]
    assert all(secret not in reply.text for reply in replies)
    # The client's own; and uvicorn's, which is off but for pytest, who gives it a handler.
    theirs = ("httpx2", "httpcore2", "uvicorn.access")
    logged = "\n".join(
        f"{record.getMessage()} {record.exc_text}"
        for record in caplog.records
        if not record.name.startswith(theirs)
    )
    assert secret not in logged
    assert url.partition("?upload=")[2] not in logged
    assert parts["upload_url"].rpartition("/")[2] not in logged
    assert "PUT /files/{name} failed" in logged
    assert "RuntimeError: broken" in logged


def test_the_database_that_cannot_be_read_is_a_503_not_a_way_in(
    keyed_server: KeyedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(_: str) -> None:
        raise DatabaseUnavailable("the job database is down; start it")

    monkeypatch.setattr(keyed_server.site.keys, "recall", lambda _: None)
    monkeypatch.setattr(keyed_server.site.keys, "look_up", down)
    with keyed_server.me as client:
        assert client.get(f"{QUEUE}/requests/x").status_code == 503


def test_without_keys_any_authorization_is_as_good_as_none(server: RunningServer) -> None:
    """fal's clients always send some key."""
    with server.client("any:thing") as client:
        assert submit(client, None).status_code == 200
        assert submit(client, "nonsense").status_code == 200


@pytest.mark.parametrize(
    "options",
    [
        {"host": "0.0.0.0", "authentication": False}, {"host": "::", "authentication": False},
        {"host": "", "authentication": False}, {"private_files": True},
    ],
)  # fmt: skip
def test_what_cannot_be_served_without_keys(options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="keys"):
        bound(Settings(port=0, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "asks"),
    [
        ({}, False), ({"host": "0.0.0.0"}, True), ({"authentication": True}, True),
        ({"public_url": "http://localhost:8080"}, False),
        ({"public_url": "https://example.org"}, True),
        ({"public_url": "https://example.org", "authentication": False}, False),
    ],
)  # fmt: skip
def test_keys_are_asked_for_unless_only_this_machine_calls(
    options: dict[str, object], asks: bool
) -> None:
    listening, settings = bound(Settings(port=0, **options))  # type: ignore[arg-type]
    listening.close()
    assert settings.authentication is asks


def test_a_server_nobody_has_a_key_for_says_how_to_make_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(server: serve_module.Server, **_: object) -> None:
        server._site.close()

    def said(**options: Any) -> str:
        caplog.clear()
        settings = Settings(data_dir=folder, port=0, authentication=True, **options)
        serve_module.serve(settings, lambda _: None)
        return caplog.text

    monkeypatch.setattr(serve_module.Server, "run", run)
    folder = tmp_path / "my data"
    url = f"sqlite:///{folder / 'queue.sqlite3'}"
    assert f"lightfill keys create --data-dir '{folder}'" in said()
    assert f"lightfill keys create --database '{url}'" in said(database_url=url)
    database = Database(url)
    store = KeyStore(database)
    key = store.create()
    assert "lightfill keys create" not in said()
    store.revoke(key_id(key))
    assert "lightfill keys create" in said()
    database.close()


def test_two_servers_on_one_database_know_the_same_keys_and_upload_urls(
    keyed_server: KeyedServer,
) -> None:
    with (
        keyed(keyed_server.site.settings.data_dir) as other,
        other.client(keyed_server.mine) as there,
        keyed_server.me as here,
    ):
        assert there.get(f"{QUEUE}/requests/x").status_code == 404
        url = here.post("/rest/storage/upload/initiate", json={}).json()["upload_url"]
        path = url.removeprefix(keyed_server.origin)
        assert there.put(path, content=b"abc").status_code == 200
        assert here.get(path.partition("?")[0]).content == b"abc"


def test_the_document_says_what_needs_a_key(
    keyed_server: KeyedServer, server: RunningServer
) -> None:
    with keyed_server.nobody as nobody, server.client() as client:
        asking, open_to_all = (each.get("/openapi.json").json() for each in (nobody, client))
    needs = {
        f"{method} {path}": operation.get("security", [])
        for path, operations in asking["paths"].items()
        for method, operation in operations.items()
    }
    key: list[dict[str, list[str]]] = [{"apiKeyAuth": []}]
    assert needs[f"post /queue/{ENDPOINT}"] == key
    assert needs["post /cdn/files/upload"] == key
    assert needs["get /files/{name}"] == [{}, *key], "it may be shown"
    assert needs["get /health"] == []
    operations = [each for path in open_to_all["paths"].values() for each in path.values()]
    assert not any("security" in each for each in operations)
