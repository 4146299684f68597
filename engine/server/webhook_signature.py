"""Signatures of webhooks, and the keys they are verified with (fal protocol, section 10)."""

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..fal.database import Database
from .server_secrets import secret

_NAME = "webhook signing key"


class Signer:
    """Signs with one Ed25519 key. Thread-safe."""

    def __init__(self, private_key: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)

    @classmethod
    def of(cls, database: Database) -> "Signer":
        """With the key of all servers on this database, made by the first of them."""
        return cls(base64.b64decode(secret(database, _NAME, _made)))

    def headers(
        self, request_id: str, user_id: str, timestamp: int, body: bytes
    ) -> list[tuple[str, str]]:
        """The four headers of a webhook with that body. timestamp: seconds since 1970."""
        digest = hashlib.sha256(body).hexdigest()
        message = f"{request_id}\n{user_id}\n{timestamp}\n{digest}".encode()
        return [
            ("X-Fal-Webhook-Request-Id", request_id),
            ("X-Fal-Webhook-User-Id", user_id),
            ("X-Fal-Webhook-Timestamp", str(timestamp)),
            ("X-Fal-Webhook-Signature", self._key.sign(message).hex()),
        ]

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set; `kid` is the key's thumbprint (RFC 7638)."""
        public = base64.urlsafe_b64encode(self._key.public_key().public_bytes_raw()).decode()
        named = {"crv": "Ed25519", "kty": "OKP", "x": public.rstrip("=")}
        thumbprint = hashlib.sha256(json.dumps(named, separators=(",", ":")).encode()).digest()
        kid = base64.urlsafe_b64encode(thumbprint).decode().rstrip("=")
        # x keeps its padding: fal's documented verifier fails without (section 10).
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "x": public, "kid": kid}]}


def _made() -> str:
    return base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode()
