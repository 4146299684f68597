"""data: URIs, there and back."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightfill.engine.errors import FileDownloadError, FileTooLarge
from lightfill.engine.fal.data_uri import decode_data_uri, encode_data_uri, is_data_uri


@given(st.binary(min_size=1))
def test_there_and_back(data: bytes) -> None:
    uri = encode_data_uri(data, "image/png")
    assert is_data_uri(uri)
    assert uri.startswith("data:image/png;base64,")
    assert decode_data_uri(uri, "f", len(data)) == data
    assert decode_data_uri(uri.rstrip("="), "f", len(data)) == data


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("data:,a%20b", b"a b"),
        ("data:text/plain;charset=utf-8,x,y", b"x,y"),
        ("DATA:;BASE64,eA==", b"x"),
        ("data:image/png; base64,eA==", b"x"),
        ("data:;base64,eA=", b"x"),
        ("data:;base64,e%41%3D%3D", b"x"),
        ("data:;base64,e A\r\n=\t=", b"x"),
    ],
)
def test_every_way_to_write_one(text: str, data: bytes) -> None:
    assert decode_data_uri(text, "f", 100) == data


@pytest.mark.parametrize(
    "text",
    [
        "data:", "data:;base64", "data:,", "data:;base64,", "data:;base64,e", "data:;base64,e=A=",
        "data:;base64,e-_A", "data:;base64,====", "data:,\u00e9", "data:" + "x" * 600 + ",y",
    ],
)  # fmt: skip
def test_broken(text: str) -> None:
    with pytest.raises(FileDownloadError, match=r"^f: the data URI .*; encode the file again$"):
        decode_data_uri(text, "f", 100)


@given(st.binary(min_size=1, max_size=200), st.integers(0, 300))
def test_the_limit_is_exact(data: bytes, limit: int) -> None:
    plain = "data:," + "".join(f"%{byte:02x}" for byte in data)
    for uri in (plain, f"data:;base64,{base64.b64encode(data).decode()}"):
        if len(data) <= limit:
            assert decode_data_uri(uri, "f", limit) == data
        else:
            with pytest.raises(FileTooLarge):
                decode_data_uri(uri, "f", limit)
