"""Which webhook URLs are refused before anything is queued."""

import pytest

from lightfill.engine.errors import RequestInvalid
from lightfill.engine.fal.webhook_url import checked_webhook_url


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://a.test/", "neither http nor https"), ("a.test/told", "neither http nor https"),
        ("", "neither http nor https"), ("http://u:p@a.test/", "holds a user name"),
        ("http://a.test:99999/", "cannot be read"), ("http://a.test/\n", "control characters"),
        ("http://2130706433/", "neither a domain name nor an address"),
        ("http://a.test/" + "a" * 9000, "longer than 8192"), ("\ud800", "control characters"),
    ],
)  # fmt: skip
def test_malformed(text: str, says: str, private: bool) -> None:
    (item,) = refused(text, private)
    assert (item["loc"], item["type"]) == (["query", "fal_webhook"], "value_error")
    assert says in item["msg"]
    assert "pass a plain http(s) URL" in item["msg"]
    assert len(item["input"].encode()) < 300


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1/", "http://localhost:8000/x", "http://a.LOCALHOST/", "http://[::1]/",
        "http://10.0.0.7/", "http://169.254.169.254/latest", "http://[::ffff:127.0.0.1]/",
    ],
)  # fmt: skip
def test_private_addresses_only_where_they_are_allowed(text: str) -> None:
    checked_webhook_url(text, allow_private=True)
    (item,) = refused(text, False)
    assert "is not on the public internet" in item["msg"]
    assert "--allow-private-addresses" in item["msg"]


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("text", ["https://a.test/told?job=1", "http://1.1.1.1:8080/x"])
def test_sound(text: str, private: bool) -> None:
    checked_webhook_url(text, allow_private=private)


def refused(text: str, private: bool) -> list[dict[str, str]]:
    with pytest.raises(RequestInvalid) as caught:
        checked_webhook_url(text, allow_private=private)
    return caught.value.detail
