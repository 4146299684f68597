"""What replies in the OpenAPI document are made of."""

from collections.abc import Mapping
from typing import Any

COMPONENTS = "#/components/schemas/"
INPUT = "InpaintingLightningInput"


def reference(name: str) -> dict[str, str]:
    """Where the document has that schema."""
    return {"$ref": f"{COMPONENTS}{name}"}


def as_json(description: str, name: str) -> dict[str, Any]:
    """A reply: JSON of that schema."""
    return {
        "description": description,
        "content": {"application/json": {"schema": reference(name)}},
    }


def route(replies: Mapping[int, dict[str, Any]], *, takes_input: bool = False) -> dict[str, Any]:
    """Keyword arguments of a FastAPI route."""
    documented: dict[str, Any] = {
        "responses": {
            401: as_json("No key, or one that is not known.", "Error"),
            429: as_json("Too many requests; come back after Retry-After.", "Error"),
            503: as_json("The server cannot do this now.", "Error"),
            **replies,
        },
    }
    if takes_input:
        body = {"required": True, "content": {"application/json": {"schema": reference(INPUT)}}}
        documented["openapi_extra"] = {"requestBody": body}
    return documented
