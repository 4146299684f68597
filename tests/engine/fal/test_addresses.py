"""Which addresses are public, and one bounded resolution."""

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightfill.engine.fal.addresses import addresses_of, is_public

REFUSED = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.255",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::127.0.0.1", "::ffff:8.8.8.8", "::ffff:10.0.0.1", "64:ff9b::8.8.8.8",
    "64:ff9b:1::a00:1", "100::1", "2001::1", "2001:10::1", "2001:20::1", "2001:db8::1",
    "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0", "fec0::1", "ff02::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "11.0.0.1",
    "192.0.1.1", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450::1", "2001:4860::8888",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses())
def test_nothing_that_python_calls_special_is_public(address: ipaddress.IPv4Address) -> None:
    """The other way round there are a few: we also refuse what embeds another address."""
    special = address.is_private or address.is_loopback or address.is_link_local
    special = special or address.is_multicast or address.is_reserved or address.is_unspecified
    assert not (special and is_public(address))


def test_an_address_is_not_resolved() -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise AssertionError(host)

    assert addresses_of("10.0.0.1", 80, 1, resolve) == [ipaddress.ip_address("10.0.0.1")]


def test_a_name_is_resolved_once_and_every_answer_is_given() -> None:
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["1.1.1.1", "2606:4700::1"]

    assert len(addresses_of("a.test", 80, 1, resolve)) == 2
    assert asked == [("a.test", 80)]


def test_a_resolver_that_hangs_is_left_behind() -> None:
    start = time.perf_counter()
    with pytest.raises(TimeoutError):
        addresses_of("a.test", 80, 0.1, lambda host, port: time.sleep(5) or [])
    assert time.perf_counter() - start < 4.5


@pytest.mark.parametrize("failure", [OSError("no"), UnicodeError("label too long")])
def test_a_resolver_that_fails_is_an_oserror(failure: Exception) -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise failure

    with pytest.raises(OSError, match=r"a\.test does not resolve"):
        addresses_of("a.test", 80, 1, resolve)
    with pytest.raises(OSError, match="no address"):
        addresses_of("a.test", 80, 1, lambda host, port: [])
