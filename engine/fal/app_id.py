"""Endpoint ids: owner/alias[/path...], in two namespaces with a segment before (protocol, 4)."""

import re
from dataclasses import dataclass
from typing import Self

_NAMESPACES = ("workflows", "comfy")
_LEGACY = re.compile(r"([0-9]+)-([a-zA-Z0-9-]+)")


@dataclass(frozen=True)
class AppId:
    """The parts of an endpoint id."""

    owner: str
    alias: str
    path: str | None = None
    namespace: str | None = None

    @classmethod
    def from_endpoint_id(cls, endpoint_id: str) -> Self:
        """The parts of `endpoint_id`; ValueError if it has no owner and alias."""
        parts = [part for part in endpoint_id.split("/") if part]
        if len(parts) == 1 and (legacy := _LEGACY.fullmatch(parts[0])):
            parts = list(legacy.groups())
        namespace = parts.pop(0) if parts and parts[0] in _NAMESPACES else None
        if len(parts) < 2:
            raise ValueError(
                f"Invalid app id: {endpoint_id}. Must be in the format <appOwner>/<appId>"
            )
        return cls(parts[0], parts[1], "/".join(parts[2:]) or None, namespace)

    @property
    def base(self) -> str:
        """The id without its path: what the URLs of a request are made of."""
        prefix = "" if self.namespace is None else f"{self.namespace}/"
        return f"{prefix}{self.owner}/{self.alias}"
