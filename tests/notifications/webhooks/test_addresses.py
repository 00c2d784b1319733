"""Which addresses are public, and what the allow list lets through."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifications.webhooks.addresses import AllowList, InvalidAllowList, check_address, is_public
from notifications.webhooks.failures import AddressRefused

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "93.184.215.14",
    "100.63.255.255",
    "100.128.0.0",
    "168.63.129.15",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2400:cb00::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]

REFUSED = [
    "0.0.0.0",  # noqa: S104 nothing is bound to it
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3ffe::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]

ipv4_addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
ipv6_addresses = st.integers(0, 2**128 - 1).map(IPv6Address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", REFUSED)
def test_a_private_or_special_address_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused) as refused:
        check_address(ip_address(address), 443, AllowList())

    assert refused.value.code == "address_refused"
    assert "KABAR_WEBHOOK_ALLOW_HOSTS" in refused.value.message


@given(ipv4_addresses)
def test_an_embedded_ipv4_address_is_judged_like_itself(address: IPv4Address) -> None:
    mapped = IPv6Address(f"::ffff:{address}")
    nat64 = IPv6Address(f"64:ff9b::{address}")

    assert is_public(mapped) == is_public(nat64) == is_public(address)


@given(ipv4_addresses)
def test_no_other_tunnel_of_an_ipv4_address_is_public(address: IPv4Address) -> None:
    number = int(address)
    for tunnel in (number, 0x2002 << 112 | number << 80, 0x20010000 << 96 | number, 0xFFFF << 48 | number):
        assert not is_public(IPv6Address(tunnel))


@given(ipv6_addresses)
def test_only_the_global_block_of_ipv6_is_public(address: IPv6Address) -> None:
    in_global_block = int(address) >> 125 == 0b001
    is_embedding = int(address) >> 32 in (0xFFFF, 0x64FF9B << 64)

    assert in_global_block or is_embedding or not is_public(address)


@given(ipv4_addresses)
def test_what_the_standard_library_calls_private_is_never_public(address: IPv4Address) -> None:
    assert not (is_public(address) and (address.is_private or address.is_multicast or address.is_reserved))


@pytest.mark.parametrize(
    ("allowed", "address"),
    [
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("10.0.0.0/8", "64:ff9b::10.1.2.3"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:9000", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]:9000", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("fd00::/8", "fd12::1"),
        ("hooks.internal, 192.168.0.0/16 ,, ", "192.168.3.4"),
    ],
)
def test_the_allow_list_lets_an_address_through(allowed: str, address: str) -> None:
    check_address(ip_address(address), 9000, AllowList.parse(allowed))


@pytest.mark.parametrize(
    ("allowed", "address"),
    [
        ("", "10.1.2.3"),
        ("10.0.0.0/8", "192.168.0.1"),
        ("127.0.0.1", "127.0.0.2"),
        ("127.0.0.1:9001", "127.0.0.1"),
        ("::1", "127.0.0.1"),
        ("hooks.internal", "10.0.0.1"),
    ],
)
def test_the_allow_list_lets_nothing_else_through(allowed: str, address: str) -> None:
    with pytest.raises(AddressRefused):
        check_address(ip_address(address), 9000, AllowList.parse(allowed))


@pytest.mark.parametrize(
    ("allowed", "host", "is_allowed"),
    [
        ("hooks.internal", "hooks.internal", True),
        ("Hooks.Internal.", "hooks.internal", True),
        ("hooks.internal", "HOOKS.internal.", True),
        ("hooks.internal", "a.hooks.internal", False),
        ("hooks.internal", "xhooks.internal", False),
        ("hooks.internal:9000", "hooks.internal", True),
        ("hooks.internal:9001", "hooks.internal", False),
        ("*.example.internal", "a.example.internal", True),
        ("*.example.internal", "a.b.example.internal", True),
        ("*.example.internal", "example.internal", False),
        ("*.example.internal", "badexample.internal", False),
        ("my_service", "my_service", True),
        ("10.0.0.0/8", "hooks.internal", False),
    ],
)
def test_the_allow_list_knows_host_names(allowed: str, host: str, is_allowed: bool) -> None:
    assert AllowList.parse(allowed).allows_host(host, 9000) is is_allowed


@pytest.mark.parametrize(
    "entry",
    [
        "10.1.2.3/8",
        "10.0.0.0/40",
        "10.0.0",
        "300.1.1.1",
        "http://hooks.internal",
        "hooks.internal/path",
        "hooks.internal:0",
        "hooks.internal:70000",
        "*",
        "a.*.internal",
        "hooks internal",
        "1:2:3",
        "b\u00fccher.internal",
    ],
)
def test_an_entry_that_nobody_understands_is_named(entry: str) -> None:
    with pytest.raises(InvalidAllowList) as invalid:
        AllowList.parse(f"127.0.0.1, {entry}")

    assert "KABAR_WEBHOOK_ALLOW_HOSTS" in str(invalid.value)
    assert entry in str(invalid.value)
