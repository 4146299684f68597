"""Keys: shown once, kept as a hash, revoked at once here and within a second elsewhere."""

import hashlib
import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from keyed_server import key_id
from typer.testing import CliRunner, Result

from lightfill.engine.cli import app
from lightfill.engine.errors import InvalidInput
from lightfill.engine.fal.database import Database
from lightfill.engine.server import keys as keys_module
from lightfill.engine.server.keys import REMEMBERED_S, KeyStore
from lightfill.engine.server.seals import Seal

KEYS = [Fernet.generate_key().decode() for _ in range(2)]
OpenDatabase = Callable[[], Database]


@pytest.fixture
def open_database(database_url: str) -> Iterator[OpenDatabase]:
    """Opens the test's database, as several processes would."""
    opened = []

    def open_one() -> Database:
        opened.append(Database(database_url))
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    database = Database(f"sqlite:///{tmp_path / 'queue.sqlite3'}")
    yield KeyStore(database)
    database.close()


def opens(store: KeyStore, key: str) -> bool:
    name, _, secret = key.partition(":")
    return (store.recall(name) or store.look_up(name)).opens_with(secret)


def test_a_key_from_making_to_revoking(open_database: OpenDatabase) -> None:
    store = KeyStore(open_database())
    assert not store.any_active()
    key = store.create("laptop")
    assert re.fullmatch(r"[0-9a-f-]{36}:[0-9a-f]{64}", key), "256 bits of secret"
    assert opens(store, key)
    assert not opens(store, key[:-1] + ("0" if key[-1] != "0" else "1"))
    (listed,) = store.listed()
    assert (listed.id, listed.name, listed.last_used) == (key_id(key), "laptop", None)
    store.note_use(listed.id)
    assert store.listed()[0].last_used == pytest.approx(listed.created, abs=60)
    assert store.any_active()
    assert store.revoke(listed.id)
    assert not opens(store, key), "at once in this process"
    assert not store.revoke(listed.id), "it was revoked before"
    assert store.listed()[0].revoked is not None
    assert not store.any_active()


def test_other_processes_notice_a_revoked_key_within_a_second(
    open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = KeyStore(open_database()), KeyStore(open_database())
    key = here.create()
    assert opens(here, key)
    elsewhere.revoke(key_id(key))
    assert opens(here, key), "it is remembered"
    now = keys_module.time.monotonic()
    monkeypatch.setattr(keys_module.time, "monotonic", lambda: now + REMEMBERED_S)
    assert not opens(here, key)
    assert REMEMBERED_S <= 2


def test_the_database_holds_no_secret(tmp_path: Path, store: KeyStore) -> None:
    key = store.create()
    secret = key.partition(":")[2]
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in kept
    assert bytes.fromhex(secret) not in kept
    with sqlite3.connect(tmp_path / "queue.sqlite3") as connection:
        ((found,),) = connection.execute("SELECT secret_sha256 FROM lightfill_keys")
    connection.close()
    assert found == hashlib.sha256(secret.encode()).digest()
    assert secret not in repr(store.look_up(key_id(key)))


def test_an_unknown_id_takes_the_same_way_as_a_known_one(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are looked up once, remembered, hashed and compared; only the answer differs."""
    compared = []
    compare = keys_module.hmac.compare_digest
    monkeypatch.setattr(
        keys_module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b)
    )
    known = store.create()
    unknown = "00000000-0000-4000-8000-000000000000:" + "0" * 64
    revoked = store.create()
    store.revoke(key_id(revoked))
    for key in (unknown, known, revoked, known[:-1] + "x"):
        assert opens(store, key) is (key == known)
        assert store.recall(key_id(key)) is not None
    assert [(len(a), len(b)) for a, b in compared] == [(32, 32)] * 4


def test_what_is_remembered_is_bounded(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_REMEMBERED", 20)
    for number in range(30):
        store.look_up(f"00000000-0000-4000-8000-{number:012d}")
    store.look_up("x" * 1_000_000)
    assert len(store._recent) == 20


def test_use_is_noted_once_a_minute(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    name = key_id(store.create())
    assert [store.should_note(name) for _ in range(3)] == [True, False, False]
    now = keys_module.time.monotonic()
    monkeypatch.setattr(keys_module.time, "monotonic", lambda: now + 60)
    assert store.should_note(name)


@pytest.mark.parametrize("name", ["", "a" * 101, "a\nb", "\x1b[31m", "\ud800"])
def test_names_that_would_spoil_the_list_are_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(InvalidInput, match="printable"):
        store.create(name)


@pytest.mark.parametrize("unknown", ["", "x", "00000000-0000-4000-8000-000000000000", "%", "\x00"])
def test_an_unknown_key_cannot_be_revoked(store: KeyStore, unknown: str) -> None:
    store.create()
    with pytest.raises(InvalidInput, match="no key has this id"):
        store.revoke(unknown)
    assert store.any_active()


def test_servers_that_start_together_agree_on_the_tables_and_the_seal(
    open_database: OpenDatabase,
) -> None:
    """The secret is made once, whoever comes first."""
    databases = [open_database() for _ in range(4)]
    seals: list[Seal] = []

    def start(database: Database) -> None:
        KeyStore(database)
        seals.append(Seal.of(database))

    threads = [threading.Thread(target=start, args=(each,)) for each in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seals) == 4
    sealed = seals[0].seal("p", {"a": 1}, 4e9)
    assert [seal.open("p", sealed) for seal in seals] == [{"a": 1}] * 4


def test_a_seal_is_for_one_purpose_until_its_deadline() -> None:
    seal = Seal(KEYS[0])
    sealed = seal.seal("upload", {"name": "\u00fc"}, 4e9)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", sealed)
    assert seal.open("upload", sealed) == {"name": "\u00fc"}
    assert seal.open("another", sealed) is None
    assert seal.open("upload", seal.seal("upload", {}, 1.0)) is None
    assert Seal(KEYS[1]).open("upload", sealed) is None
    for forged in ("", "x", sealed[:-4], sealed[4:], sealed + "A", "\u00fc", "=" * 5000):
        assert seal.open("upload", forged) is None


def lightfill(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["keys", *map(str, arguments)], env={"COLUMNS": "120"})


def test_the_command_line(tmp_path: Path) -> None:
    where = ["--data-dir", tmp_path]
    made = lightfill("create", "--name", "[red]laptop", *where)
    key = made.stdout.strip()
    assert re.fullmatch(r"[0-9a-f-]{36}:[0-9a-f]{64}", key), "nothing else is printed"
    assert "not shown again" in made.stderr
    table = lightfill("list", *where).stdout
    assert key_id(key) in table
    assert "[red]laptop" in table
    assert key.partition(":")[2] not in table
    url = f"sqlite:///{tmp_path / 'queue.sqlite3'}"
    assert "revoked" in lightfill("revoke", key_id(key), "--database", url).stderr
    (listed,) = json.loads(lightfill("list", "--json", *where).stdout)
    assert listed["revoked"] is not None
    assert "before" in lightfill("revoke", key_id(key), *where).stderr
    assert isinstance(lightfill("revoke", "nothing", *where).exception, InvalidInput)
    assert "no keys" in lightfill("list", "--data-dir", tmp_path / "new").stdout
