"""What the OpenAPI document says of the routes: fal's own schema, states and codes."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ..fal import schema
from .openapi_replies import COMPONENTS as _COMPONENTS
from .openapi_replies import INPUT as _INPUT
from .openapi_replies import as_json as _json
from .openapi_replies import route as _route
from .openapi_uploads import SCHEMAS

_OUTPUT = "Output"

_EVENTS = {
    "description": "Events.",
    "content": {"text/event-stream": {}},
}
_UNKNOWN = _json("No such request.", "Error")
_MISTAKES = _json("The arguments are wrong.", "ValidationErrors")
_TOO_LARGE = _json("The body is larger than the server takes.", "Error")
_GAVE_UP = _json("The caller left.", "Error")
_FAILED = _json("The request's own error.", "Error")

SUBMIT = _route(
    {200: _json("Queued.", "QueueStatus"), 413: _TOO_LARGE, 422: _MISTAKES}, takes_input=True
)
STATUS = _route(
    {
        200: _json("Completed.", "QueueStatus"),
        202: _json("Waits or runs.", "QueueStatus"),
        404: _UNKNOWN,
        422: _MISTAKES,
    }
)
STREAM = _route({200: _EVENTS, 404: _UNKNOWN, 422: _MISTAKES})
RESULT = _route(
    {
        200: _json("The output.", _OUTPUT),
        400: _json("Not there yet.", "QueueStatus"),
        404: _UNKNOWN,
        422: _MISTAKES,
        499: _GAVE_UP,
        500: _FAILED,
        504: _FAILED,
    }
)
CANCEL = _route(
    {
        202: _json("It is told to stop.", "Cancellation"),
        400: _json("It was completed already.", "Cancellation"),
        404: _json("No such request.", "Cancellation"),
        422: _MISTAKES,
    }
)
RUN = _route(
    {
        200: _json("The output.", _OUTPUT),
        413: _TOO_LARGE,
        422: _MISTAKES,
        499: _GAVE_UP,
        500: _FAILED,
        504: _FAILED,
    },
    takes_input=True,
)
RUN_STREAM = _route({200: _EVENTS, 413: _TOO_LARGE, 422: _MISTAKES}, takes_input=True)

MODEL: dict[str, Any] = {
    "responses": {
        200: _json("What the server paints with.", "Model"),
        500: _json("Its bundle cannot be read.", "Error"),
    }
}

_TEXT = {"type": "string"}
_COUNT = {"type": "integer"}
_STATUS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["status", "request_id", "response_url", "status_url", "cancel_url"],
    "properties": {
        "status": {"type": "string", "enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]},
        "request_id": _TEXT,
        "response_url": _TEXT,
        "status_url": _TEXT,
        "cancel_url": _TEXT,
        "queue_position": {"type": "integer", "description": "Requests ahead; only IN_QUEUE."},
        "logs": {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "null"}]},
        "metrics": {"type": "object"},
        "error": {"type": "string", "description": "Only of a request that failed."},
        "error_type": _TEXT,
        "detail": {"type": "string", "description": "Only where a result is not there yet."},
    },
}
_MODEL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["endpoint", "version", "name", "device", "natural_size", "steps", "image_sizes",
                 "any_size", "safety_checker", "asks_for_keys", "limits"],
    "properties": {
        "endpoint": _TEXT,
        "version": _TEXT,
        "name": {"type": "string", "description": "The bundle's."},
        "device": _TEXT,
        "natural_size": {"type": "integer", "description": "The side it was trained for."},
        "steps": {"type": "array", "items": _COUNT, "description": "Those it has a UNet for."},
        "image_sizes": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["width", "height"],
                "properties": {"width": _COUNT, "height": _COUNT},
            },
        },
        "any_size": {"type": "boolean", "description": "False: only sizes with built engines."},
        "safety_checker": {"anyOf": [{"type": "string", "enum": ["v1", "v2"]}, {"type": "null"}]},
        "asks_for_keys": {"type": "boolean"},
        "limits": {"type": "object", "additionalProperties": {"type": "number"}},
    },
}  # fmt: skip
_SCHEMAS: dict[str, Any] = {
    "Model": _MODEL_SCHEMA,
    "QueueStatus": _STATUS_SCHEMA,
    "Cancellation": {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {
                "type": "string",
                "enum": ["CANCELLATION_REQUESTED", "ALREADY_COMPLETED", "NOT_FOUND"],
            }
        },
    },
    "Error": {
        "type": "object",
        "required": ["detail"],
        "properties": {
            "detail": {"anyOf": [_TEXT, {"type": "array", "items": {"type": "object"}}]},
            "error_type": _TEXT,
        },
    },
    "ValidationErrors": {
        "type": "object",
        "required": ["detail"],
        "properties": {
            "detail": {
                "anyOf": [
                    {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["type", "loc", "msg"],
                            "properties": {"type": _TEXT, "loc": {"type": "array"}, "msg": _TEXT},
                        },
                    },
                    _TEXT,
                ]
            }
        },
    },
}


def document(app: FastAPI) -> None:
    """Let /openapi.json hold fal's schemas word for word, and our routes."""

    def made() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes,
                                   summary=app.summary)  # fmt: skip
            components = document.setdefault("components", {})
            components["schemas"] = _fal_schemas() | _SCHEMAS | SCHEMAS
            if not app.state.site.asks_for_keys:
                _ask_for_no_keys(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = made  # type: ignore[method-assign]


def _ask_for_no_keys(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("security", None)


def _fal_schemas() -> dict[str, Any]:
    """The endpoint's input and output, and what they are made of."""
    found: dict[str, Any] = {}
    for name, model in ((_INPUT, schema.InpaintingInput), (_OUTPUT, schema.InpaintingOutput)):
        made = model.model_json_schema(ref_template=f"{_COMPONENTS}{{model}}")
        found |= made.pop("$defs", {})
        found[name] = made
    return found
