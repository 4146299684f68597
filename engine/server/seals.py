"""Facts that callers carry and cannot read, alter or make: what upload URLs and tokens are.

The secret lies in the job database, so that servers that share it accept each other's URLs.
Whoever reads the database could make some; he could as well read what the jobs hold.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from ..fal.database import Database
from .server_secrets import secret

_NAME = "upload seal"
_LONGEST = 4096


class Seal:
    """Seals facts for one purpose each, encrypted and signed (Fernet: AES and HMAC-SHA256)."""

    def __init__(self, key: str) -> None:
        self._fernet = Fernet(key)

    @classmethod
    def of(cls, database: Database) -> "Seal":
        """The one of all servers on that database, made by the first of them."""
        return cls(secret(database, _NAME, lambda: Fernet.generate_key().decode()))

    def seal(self, purpose: str, facts: Mapping[str, Any], deadline: float) -> str:
        """Letters, digits, - and _: fit for URLs. deadline: until when `open` accepts it."""
        sealed = json.dumps([purpose, deadline, dict(facts)]).encode()
        return self._fernet.encrypt(sealed).decode().rstrip("=")

    def open(self, purpose: str, text: str) -> dict[str, Any] | None:
        """What was sealed for that purpose; None if it was not, or the deadline has passed."""
        if len(text) > _LONGEST or not text.isascii():
            return None
        try:
            found = self._fernet.decrypt(text + "=" * (-len(text) % 4))
        except InvalidToken:
            return None
        sealed_for, deadline, facts = json.loads(found)
        if sealed_for != purpose or deadline <= time.time():
            return None
        return dict(facts)
