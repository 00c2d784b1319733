"""Which URLs a webhook may have."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util import parse_url

from notifications.webhooks.addresses import AllowList, is_public
from notifications.webhooks.failures import AddressRefused, InvalidUrl, WebhookFailure
from notifications.webhooks.urls import MAX_URL_LENGTH, check_url, parse_target

NOTHING = AllowList()


@pytest.mark.parametrize(
    ("url", "sent_as"),
    [
        ("https://hooks.example/a/b?c=d&e=%20", "https://hooks.example/a/b?c=d&e=%20"),
        ("HTTPS://Hooks.Example", "https://hooks.example/"),
        ("https://hooks.example:443/", "https://hooks.example/"),
        ("http://hooks.example:8080?x", "http://hooks.example:8080/?x"),
        ("https://hooks.example./", "https://hooks.example./"),
        ("https://my_service/", "https://my_service/"),
        ("https://b\u00fccher.example/\u00fc?\u00fc=1", "https://xn--bcher-kva.example/%C3%BC?%C3%BC=1"),
        ("https://hooks.example/\u2603\U0001f600", "https://hooks.example/%E2%98%83%F0%9F%98%80"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700:4700:0::1111]:8443/x", "https://[2606:4700:4700::1111]:8443/x"),
        ("https://hooks.example//a/../b", "https://hooks.example//a/../b"),
        ('https://hooks.example/"<>{}', "https://hooks.example/%22%3C%3E%7B%7D"),
    ],
)
def test_a_good_url_has_one_spelling(url: str, sent_as: str) -> None:
    check_url(url, NOTHING)

    assert parse_target(url).url == sent_as


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example",
        "//hooks.example/",
        "/path",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_x",
        "javascript:alert(1)",
        "https:hooks.example",
        "https:/hooks.example/",
        "https://",
        "https:///path",
        "https://:443/",
        "https://user@hooks.example/",
        "https://user:password@hooks.example/",
        "https://hooks.example@127.0.0.1/",
        "https://@hooks.example/",
        "https://hooks.example:0/",
        "https://hooks.example:65536/",
        "https://hooks.example:-1/",
        "https://hooks.example:http/",
        "https://hooks.example:8\u0660/",
        "https://hooks.example/#part",
        "https://hooks.example/#",
        "https://hooks.example#@127.0.0.1/",
        "https://hooks.example/a b",
        "https://hooks.example/a\\b",
        " https://hooks.example/",
        "https://hooks.example/\n",
        "https://hooks.ex\tample/",
        "https://hooks.example/\r\nX: y",
        "https://hooks.example/\x00",
        "https://hooks.example/\ud800",
        "https://hooks.example/\u200b",
        "https://hooks.example/\u2028",
        "https://hooks.example\\@127.0.0.1/",
        "http:\\\\127.0.0.1\\",
        "https://127.0.0.1%2f@hooks.example/",
        "https://%6c%6fcalhost/",
        "https://hooks..example/",
        "https://.example/",
        "https://" + "a" * 64 + ".example/",
        "https://" + "a." * 127 + "example/",
        "https://hooks.example,127.0.0.1/",
        "https://hooks.example;x/",
        "https://[::1/",
        "https://::1/",
        "https://[::1]x/",
        "https://x[::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[v1.x]/",
        "https://[127.0.0.1]/",
        "https://\U0001f600.example/",
        "https://hooks.example/" + "a" * MAX_URL_LENGTH,
        "https://hooks.example/" + "\u2603" * 300,
    ],
)
def test_a_bad_url_is_refused_with_advice(url: str) -> None:
    with pytest.raises(InvalidUrl) as invalid:
        check_url(url, NOTHING)

    assert invalid.value.code == "invalid_url"
    assert invalid.value.message.endswith(".")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",  # noqa: S104 nothing is bound to it
        "[::]",
        "[::1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:169.254.169.254]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fec0::1]",
        "[fd00:ec2::254]",
        "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
        "127\u30020\u30020\u30021",
        "\u2460\u2461\u2466.0.0.1",
        "localhost",
        "LOCALHOST.",
        "hooks.localhost",
        "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
    ],
)
def test_a_private_host_is_refused_in_each_spelling(host: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(f"http://{host}:8080/latest/meta-data", NOTHING)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0X7F000001",
        "017700000001",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "127.1",
        "127.0.1",
        "0",
        "0x",
        "00000127.0.0.1",
        "127.0.0.1.",
        "127.0.0.0x1",
        "1.2.3.4.5",
        "256.256.256.256",
        "169.254.43518",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "0xA9.0xFE.0xA9.0xFE",
        "425.510.425.510",
        "foo.123",
        "foo.0x7f",
    ],
)
def test_an_ipv4_address_in_an_odd_spelling_is_refused(host: str) -> None:
    with pytest.raises(InvalidUrl):
        check_url(f"http://{host}/", NOTHING)


def _spell(number: int, base: str) -> str:
    return {
        "decimal": f"{number}",
        "octal": f"0{number:o}",
        "hex": f"0x{number:x}",
        "long": f"0x{number:016x}",
    }[base]


@given(address=st.integers(0, 2**32 - 1), parts=st.integers(1, 4), data=st.data())
def test_no_number_that_the_resolver_reads_as_private_passes(address: int, parts: int, data: st.DataObject) -> None:
    numbers = [address >> shift & 0xFF for shift in (24, 16, 8)][: parts - 1]
    numbers.append(address & (1 << 8 * (5 - parts)) - 1)
    spellings = ["decimal", "octal", "hex", "long"]
    host = ".".join(_spell(number, data.draw(st.sampled_from(spellings))) for number in numbers)
    try:
        check_url(f"http://{host}/", NOTHING)
    except WebhookFailure:
        return

    resolved = socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    addresses = {ip_address(socket_address[0]) for *_, socket_address in resolved}
    assert all(is_public(address) for address in addresses)
    assert addresses == {parse_target(f"http://{host}/").address}


url_like = st.one_of(
    st.text(max_size=60),
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["http://", "https://", "HTTP:", "//", "http:/"]),
        st.text(alphabet="ab1.:@[]%\\/?#x-_\u00fc\uff0e\u3002\uff11 ", max_size=30),
        st.sampled_from(["", ":80", ":x", ":99999"]),
        st.text(alphabet="/ab%?#&\\\u00fc\n", max_size=15),
    ),
)


@given(url_like)
def test_any_text_passes_or_is_refused_and_all_readers_agree_on_what_passes(text: str) -> None:
    try:
        target = parse_target(text)
    except InvalidUrl:
        return

    assert target.url.isascii()
    assert parse_target(target.url) == target
    other_reader = parse_url(target.url)
    assert other_reader.scheme == target.scheme
    assert (other_reader.host or "").strip("[]") == target.host
    assert (other_reader.port or {"http": 80, "https": 443}[target.scheme]) == target.port


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000/"),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/"),
        ("10.0.0.0/8", "http://[::ffff:10.0.0.1]/"),
        ("localhost", "http://localhost:9000/"),
        ("127.0.0.0/8", "http://localhost:9000/"),
        ("hooks.internal", "https://hooks.internal/"),
    ],
)
def test_the_allow_list_lets_a_url_through(allowed: str, url: str) -> None:
    check_url(url, AllowList.parse(allowed))


def test_a_port_on_the_allow_list_lets_no_other_port_through() -> None:
    with pytest.raises(AddressRefused):
        check_url("http://127.0.0.1:6379/", AllowList.parse("127.0.0.1:9000"))


def test_the_address_of_a_literal_is_known_and_that_of_a_name_isnt() -> None:
    assert parse_target("https://[::ffff:8.8.8.8]/").address == ip_address("::ffff:8.8.8.8")
    assert parse_target("https://hooks.example/").address is None
