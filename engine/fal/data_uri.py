"""data: URIs (RFC 2397): the caller's file inside the request, or a result inside the answer."""

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from ..errors import FileDownloadError
from .limits import too_large

_MAX_HEADER = 512
_WHITESPACE = b" \t\n\r\f"
_SCHEME = re.compile(r"data:", re.IGNORECASE)


def is_data_uri(text: str) -> bool:
    """Whether `text` claims to be one."""
    return _SCHEME.match(text) is not None


def encode_data_uri(data: bytes, content_type: str) -> str:
    """`data` as a base64 data URI."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode('ascii')}"


def decode_data_uri(text: str, field: str, limit: int) -> bytes:
    """The bytes of a data URI, at most `limit`; the length is checked before anything is decoded.

    Base64 is read as browsers do: whitespace and missing padding are forgiven, nothing else is.
    """
    header, comma, _ = text[5 : _MAX_HEADER + 5].partition(",")
    if not comma:
        raise _bad(field, "has no comma after its header")
    start = 5 + len(header) + 1
    is_base64 = header.replace(" ", "").lower().endswith(";base64")
    if len(text) - start > (limit * 4 // 3 + limit // 32 + 4 if is_base64 else 3 * limit):
        raise too_large(field, limit)
    payload = text[start:]
    try:
        data = unquote_to_bytes(payload) if "%" in payload else payload.encode("ascii")
        if is_base64:
            data = _from_base64(data)
    except (UnicodeError, binascii.Error) as error:
        raise _bad(field, f"cannot be decoded ({error})") from error
    if len(data) > limit:
        raise too_large(field, limit)
    if not data:
        raise _bad(field, "is empty")
    return data


def _from_base64(data: bytes) -> bytes:
    if any(space in data for space in _WHITESPACE):
        data = data.translate(None, _WHITESPACE)
    if len(data) % 4:
        data += b"=" * (-len(data) % 4)
    return base64.b64decode(data, validate=True)


def _bad(field: str, reason: str) -> FileDownloadError:
    return FileDownloadError(field, f"the data URI {reason}; encode the file again")
