"""URLs are read strictly, and sound ones arrive as they were meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightfill.engine.errors import FileDownloadError
from lightfill.engine.fal.urls import MAX_LENGTH, parse_url, redirected


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("http://a.test", "http://a.test/"),
        ("HTTPS://A.Test:443/x?y=1#z", "https://a.test/x?y=1"),
        ("http://a.test.:8080/", "http://a.test:8080/"),
        ("https://a.test?q", "https://a.test/?q"),
        ("http://a.test/my photo.png", "http://a.test/my%20photo.png"),
        ("http://a.test/a%20b%2Fc?s=%3D", "http://a.test/a%20b%2Fc?s=%3D"),
        ("http://b\u00fccher.test/\u00fc?\u00fc", "http://xn--bcher-kva.test/%C3%BC?%C3%BC"),
        ("http://1.2.3.4:80/", "http://1.2.3.4/"),
        ("http://[2606:4700:0::1]:81/", "http://[2606:4700::1]:81/"),
        ("http://under_score.test/", "http://under_score.test/"),
        (" https://a.test/ ", "https://a.test/"),
        ("https://a.test/x;v=1,2@3:4!$&'()*+~", "https://a.test/x;v=1,2@3:4!$&'()*+~"),
    ],
)
def test_sound_urls(text: str, meant: str) -> None:
    assert str(parse_url(text, "image_url")) == meant


@pytest.mark.parametrize(
    ("location", "meant"),
    [
        ("/b", "https://a.test/b"),
        ("b?c", "https://a.test/x/b?c"),
        ("//c.test/b", "https://c.test/b"),
        ("http://d.test", "http://d.test/"),
    ],
)
def test_redirects_are_relative_to_where_they_came_from(location: str, meant: str) -> None:
    assert str(redirected(parse_url("https://a.test/x/y", "f"), location, "f")) == meant


@pytest.mark.parametrize(
    "text",
    [
        "ftp://a.test/", "a.test/x", "http://u@a.test/", "http://u:p@a.test/", "http:///x",
        "http://a.test:0/", "http://a.test:70000/", "http://1.2.3/", "http://01.2.3.4/",
        "http://1.2.3.4.5/", "http://a.0x7f/", "http://[::1%25lo]/", "http://[1.2.3.4]/",
        "http://[v1.x]/", "http://a..b/", "http://-a/", "http://a b/", "http://a%2fb/",
        "http://a.test\\b", "http://a.test/\n", "http://a.test/\x85", "http://" + "a" * 254,
        "http://a.test/" + "a" * MAX_LENGTH,
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(FileDownloadError, match=r"^image_url: the URL .*; pass a plain http") as e:
        parse_url(text, "image_url")
    assert e.value.field == "image_url"


@given(st.text() | st.text(alphabet="htps:/@[]#?.%\\0x7f1 ").map("http://{}".format))
def test_whatever_is_given_is_a_url_that_parses_to_itself_or_our_error(text: str) -> None:
    try:
        url = parse_url(text, "f")
    except FileDownloadError:
        return
    assert parse_url(str(url), "f") == url
    assert str(url).isascii()
    assert not set(str(url)) & set(" \r\n\t\\")
