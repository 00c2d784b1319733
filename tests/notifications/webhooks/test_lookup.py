"""From names to addresses: each is checked, and no name server holds us up."""

from __future__ import annotations

import socket
import threading
import time
from ipaddress import ip_address
from typing import Any

import pytest

from notifications.webhooks import lookup as lookup_module
from notifications.webhooks.addresses import AllowList
from notifications.webhooks.failures import AddressRefused, InvalidUrl, LookupFailed, LookupTimedOut
from notifications.webhooks.lookup import Destination, Lookup, check_registration, look_up, resolve

NOTHING = AllowList()


def answering(*addresses: str) -> Lookup:
    """A resolver that knows one host."""

    def lookup(host: str, port: int, timeout_seconds: float) -> list[Destination]:
        return [
            Destination(
                family=socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6,
                socket_address=(address, port),
            )
            for address in addresses
        ]

    return lookup


def failing(host: str, port: int, timeout_seconds: float) -> list[Destination]:
    raise LookupFailed("no such name")


def test_every_public_address_of_a_name_is_given_in_order() -> None:
    found = resolve("hooks.example", 443, NOTHING, lookup=answering("8.8.8.8", "2606:4700::1"), timeout_seconds=1)

    assert [str(destination.address) for destination in found] == ["8.8.8.8", "2606:4700::1"]


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:10.0.0.1", "8.8.8.8"], ["fe80::1%lo"]]
)
def test_one_refused_address_refuses_the_name_and_is_not_told(addresses: list[str]) -> None:
    with pytest.raises(AddressRefused) as refused:
        resolve("hooks.example", 443, NOTHING, lookup=answering(*addresses), timeout_seconds=1)

    assert not any(address in refused.value.message for address in addresses)


def test_an_allowed_name_may_lead_anywhere() -> None:
    allow = AllowList.parse("hooks.internal")

    assert resolve("hooks.internal", 443, allow, lookup=answering("10.0.0.1"), timeout_seconds=1)


def test_a_name_without_an_address_is_an_error() -> None:
    with pytest.raises(LookupFailed):
        resolve("hooks.example", 443, NOTHING, lookup=answering(), timeout_seconds=1)


def test_a_registration_is_refused_if_its_name_leads_to_a_private_address() -> None:
    with pytest.raises(AddressRefused):
        check_registration("https://hooks.example/", NOTHING, lookup=answering("192.168.0.1"))


def test_a_registration_with_a_bad_url_is_refused_before_any_lookup() -> None:
    with pytest.raises(InvalidUrl):
        check_registration("ftp://hooks.example/", NOTHING, lookup=failing)


@pytest.mark.parametrize("url", ["https://hooks.example/", "https://8.8.8.8/"])
def test_a_registration_outlives_a_dead_name_server(url: str) -> None:
    check_registration(url, NOTHING, lookup=failing)


def test_the_system_knows_a_literal_address() -> None:
    assert [str(found.address) for found in look_up("8.8.8.8", 443, 1.0)] == ["8.8.8.8"]
    assert [str(found.address) for found in look_up("2606:4700::1", 443, 1.0)] == ["2606:4700::1"]


def test_the_system_knows_this_machine() -> None:
    assert any(found.address.is_loopback for found in look_up("localhost", 443, 5.0))


def test_a_resolver_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    # A name server that never answers can't be had without configuring the machine.
    released = threading.Event()
    done = threading.Event()

    def hang(*_: Any, **__: Any) -> list[Any]:
        released.wait(10)
        done.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started_at = time.monotonic()
    with pytest.raises(LookupTimedOut) as timed_out:
        look_up("hooks.example", 443, 0.2)

    assert time.monotonic() - started_at < 3.0
    assert timed_out.value.code == "dns_timeout"
    released.set()
    assert done.wait(5)


def test_hanging_resolvers_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_module, "_free_lookups", threading.BoundedSemaphore(1))
    released = threading.Event()

    def hang(*_: Any, **__: Any) -> list[Any]:
        released.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    threads_before = threading.active_count()
    for _ in range(5):
        with pytest.raises(LookupTimedOut):
            look_up("hooks.example", 443, 0.05)

    assert threading.active_count() <= threads_before + 1
    released.set()


def test_a_name_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(LookupFailed) as failed:
        look_up("hooks.example", 443, 1.0)

    assert failed.value.code == "dns_failed"
