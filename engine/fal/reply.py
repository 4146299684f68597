"""A reply as fal's HTTP API sends it, whether it came over HTTP or not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """HTTP status, headers (names in lower case) and JSON body of one call.

    `FalClientHTTPError.response` is one; it answers what programs ask of an `httpx.Response`.
    seen: what the transport that made a status reply wants back in `Transport.wait`. raw: the body
    as it came over the wire; `body` is it, too, where it is no JSON.
    """

    status_code: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    seen: Any = field(default=None, repr=False, compare=False)
    raw: str | None = field(default=None, repr=False, compare=False)

    def json(self) -> Any:
        return self.body

    @property
    def text(self) -> str:
        """The body as it is on the wire."""
        if self.raw is not None:
            return self.raw
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":"))

    @property
    def content(self) -> bytes:
        """`text` in UTF-8, which has no half surrogate pairs: they become question marks."""
        return self.text.encode(errors="replace")

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status_code < 300
