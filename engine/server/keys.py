"""Keys of callers, `id:secret`: made once, shown once, kept as a hash in the job database."""

import hashlib
import hmac
import re
import secrets
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field

from sqlalchemy import (
    Column,
    Connection,
    Double,
    LargeBinary,
    MetaData,
    String,
    Table,
    exists,
    insert,
    or_,
    select,
    update,
)

from ..errors import InvalidInput
from ..fal.database import Database

REMEMBERED_S = 1.0
"""How long a server trusts what it read: a key revoked elsewhere works no longer than this."""
_REMEMBERED = 4096
_USED_EVERY_S = 60.0
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,100}")

_tables = MetaData()
_keys = Table(
    "lightfill_keys",
    _tables,
    Column("id", String, primary_key=True),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("name", String),
    Column("created", Double, nullable=False),
    Column("last_used", Double),
    Column("revoked", Double),
)


@dataclass(frozen=True)
class Key:
    """One key without its secret. Times are Unix seconds; `last_used` is true to a minute."""

    id: str
    name: str | None
    created: float
    last_used: float | None
    revoked: float | None


@dataclass(frozen=True)
class KnownKey:
    """What a server knows of an id. One that does not exist has a hash that no secret has."""

    active: bool = False
    hash: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    read: float = field(default_factory=time.monotonic)

    def opens_with(self, secret: str) -> bool:
        """Whether `secret` is the key's, and the key not revoked. Takes as long in any case."""
        same = hmac.compare_digest(_hashed(secret), self.hash)
        return same and self.active


class KeyStore:
    """The keys in a job database. Thread-safe; every server on the database has the same keys.

    All calls but `recall` and `should_note` block for the database (DatabaseUnavailable).
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent: OrderedDict[str, KnownKey] = OrderedDict()
        self._noted: dict[str, float] = {}
        self._lock = threading.Lock()
        database.create(_tables)

    def create(self, name: str | None = None) -> str:
        """A new key as `id:secret`. The secret is nowhere else: it cannot be shown again."""
        if name is not None and not _NAME.fullmatch(name):
            raise InvalidInput("name", "must have 1 to 100 printable characters; choose another")
        key_id, secret = str(uuid.uuid4()), secrets.token_hex(32)
        new = insert(_keys).values(
            id=key_id, secret_sha256=_hashed(secret), name=name, created=self._database.now()
        )
        self._database.write(lambda connection: connection.execute(new))
        self._forget(key_id)
        return f"{key_id}:{secret}"

    def listed(self) -> list[Key]:
        """Every key, the oldest first, revoked ones too."""
        columns = [column for column in _keys.c if column is not _keys.c.secret_sha256]
        query = select(*columns).order_by(_keys.c.created, _keys.c.id)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [Key(**row._mapping) for row in rows]

    def revoke(self, key_id: str) -> bool:
        """Let the key open nothing any more; False if that was so. InvalidInput: no such key."""
        now = self._database.now()
        this = _keys.c.id == key_id

        def operation(connection: Connection) -> tuple[bool, bool]:
            revoke = update(_keys).where(this, _keys.c.revoked.is_(None)).values(revoked=now)
            changed = connection.execute(revoke).rowcount == 1
            return changed, bool(connection.scalar(select(exists().where(this))))

        changed = known = False
        if _ID.fullmatch(key_id):
            changed, known = self._database.write(operation)
        if not known:
            raise InvalidInput("ID", "no key has this id; `lightfill keys list` shows them")
        self._forget(key_id)
        return changed

    def any_active(self) -> bool:
        """Whether anybody may call at all."""
        query = select(exists().where(_keys.c.revoked.is_(None)))
        return bool(self._database.read(lambda connection: connection.scalar(query)))

    def recall(self, key_id: str) -> KnownKey | None:
        """What was read of the key within the last second; None: `look_up` must be asked."""
        with self._lock:
            known = self._recent.get(key_id)
        fresh = known is not None and time.monotonic() - known.read < REMEMBERED_S
        return known if fresh else None

    def look_up(self, key_id: str) -> KnownKey:
        """The key as it is now. Unknown ids are remembered, too: they take the same way."""
        if not _ID.fullmatch(key_id):
            return KnownKey()
        query = select(_keys.c.secret_sha256, _keys.c.revoked).where(_keys.c.id == key_id)
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        known = KnownKey()
        if row is not None:
            known = KnownKey(row.revoked is None, bytes(row.secret_sha256))
        with self._lock:
            self._recent[key_id] = known
            self._recent.move_to_end(key_id)
            if len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)
        return known

    def should_note(self, key_id: str) -> bool:
        """Whether `note_use` is due, which is so once a minute; only for keys that exist."""
        now = time.monotonic()
        with self._lock:
            due = now - self._noted.get(key_id, -_USED_EVERY_S) >= _USED_EVERY_S
            if due:
                self._noted[key_id] = now
        return due

    def note_use(self, key_id: str) -> None:
        """Write down that the key was used just now, unless another server has this minute."""
        now = self._database.now()
        old = or_(_keys.c.last_used.is_(None), _keys.c.last_used <= now - _USED_EVERY_S)
        used = update(_keys).where(_keys.c.id == key_id, old).values(last_used=now)
        self._database.write_lightly(lambda connection: connection.execute(used))

    def _forget(self, key_id: str) -> None:
        with self._lock:
            self._recent.pop(key_id, None)


def _hashed(secret: str) -> bytes:
    """SHA-256, not a slow password hash: a secret of 256 random bits cannot be guessed anyway."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
