"""What the OpenAPI document says of uploads and stored files."""

from typing import Any

from .openapi_replies import as_json, reference, route
from .receiving import LONGEST_S

_TEXT = {"type": "string"}
_LIFECYCLE = {
    "name": "X-Fal-Object-Lifecycle",
    "in": "header",
    "description": "How long the file is kept, instead of as long as the server keeps files.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "expiration_duration_seconds": {
                        "type": "number",
                        "minimum": 0,
                        "maximum": LONGEST_S,
                    }
                },
            }
        }
    },
}
_STORAGE_TYPE = {
    "name": "storage_type",
    "in": "query",
    "description": "Any: there is one storage.",
    "schema": _TEXT,
}
_FILE_NAME = {
    "name": "X-Fal-File-Name",
    "in": "header",
    "description": "What a reader's browser saves it as.",
    "schema": _TEXT,
}
_CONTENT = {
    "required": False,  # a file may be empty
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
_OPTIONAL_KEY: list[dict[str, list[str]]] = [{}, {"apiKeyAuth": []}]
_ERROR_CODES = {
    408: as_json("Nothing was sent for a minute.", "Error"),
    413: as_json("More bytes than a file may have.", "Error"),
    422: as_json("The request is wrong.", "ValidationErrors"),
    499: as_json("The caller left.", "Error"),
    500: as_json("The storage cannot be used.", "Error"),
}
_GONE = as_json("No such upload, or its time is over.", "Error")


def _json_body(name: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": reference(name)}}}


def _documented(replies: dict[int, dict[str, Any]], **extra: Any) -> dict[str, Any]:
    """Keyword arguments of a FastAPI route; `extra` goes into the operation."""
    documented = route({**_ERROR_CODES, **replies})
    documented["openapi_extra"] = extra
    return documented


TOKEN = _documented({200: as_json("A token.", "UploadToken")}, parameters=[_STORAGE_TYPE])
INITIATE = _documented(
    {200: as_json("Where to upload.", "UploadUrl")},
    requestBody=_json_body("UploadIntent"),
    parameters=[_STORAGE_TYPE, _LIFECYCLE],
)
UPLOAD = _documented(
    {200: as_json("Stored.", "StoredFile")},
    requestBody=_CONTENT,
    parameters=[_LIFECYCLE, _FILE_NAME],
)
UPLOAD_IN_PARTS = _documented(
    {200: as_json("Begun.", "PartedUpload")}, parameters=[_LIFECYCLE, _FILE_NAME]
)
PUT_FILE = _documented(
    {200: as_json("Stored.", "StoredFile"), 404: _GONE},
    requestBody=_CONTENT,
    security=_OPTIONAL_KEY,
)
PUT_PART = _documented(
    {200: as_json("Stored.", "UploadedPart"), 404: _GONE},
    requestBody=_CONTENT,
    security=_OPTIONAL_KEY,
)
COMPLETE = _documented(
    {200: as_json("The file is there.", "StoredFile"), 404: _GONE},
    requestBody=_json_body("UploadedParts"),
    security=_OPTIONAL_KEY,
)
_BYTES = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
READ_FILE = route(
    {
        200: {"description": "The file.", "content": _BYTES},
        206: {"description": "The bytes asked for.", "content": _BYTES},
        304: {"description": "The reader has it already."},
        404: as_json("No such file, or it has expired, or it is another owner's.", "Error"),
        416: as_json("The file has no such bytes.", "Error"),
        422: as_json("The request is wrong.", "ValidationErrors"),
        500: as_json("The storage cannot be used.", "Error"),
    }
) | {"openapi_extra": {"security": _OPTIONAL_KEY}}

_PART = {
    "type": "object",
    "required": ["partNumber", "etag"],
    "properties": {
        "partNumber": {"type": "integer", "minimum": 1, "maximum": 10_000},
        "etag": {"type": "string", "maxLength": 100},
    },
}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


SCHEMAS: dict[str, Any] = {
    "UploadToken": _object(
        token=_TEXT, token_type=_TEXT, base_url=_TEXT, expires_at=_TEXT | {"format": "date-time"}
    ),
    "UploadIntent": {
        "type": "object",
        "properties": {
            "content_type": _TEXT | {"default": "application/octet-stream"},
            "file_name": {"anyOf": [_TEXT, {"type": "null"}]},
        },
    },
    "UploadUrl": _object(upload_url=_TEXT, file_url=_TEXT),
    "StoredFile": {
        **_object(access_url=_TEXT),
        "properties": {"access_url": _TEXT, "file_url": _TEXT},
    },
    "PartedUpload": _object(access_url=_TEXT, uploadId=_TEXT),
    "UploadedPart": _PART,
    "UploadedParts": _object(
        parts={"type": "array", "minItems": 1, "maxItems": 10_000, "items": _PART}
    ),
}
