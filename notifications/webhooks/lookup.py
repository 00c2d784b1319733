"""From a host's name to the addresses that may be connected to, within a time limit."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import ip_address

from notifications.webhooks.addresses import Address, AllowList, check_address
from notifications.webhooks.failures import LookupFailed, LookupTimedOut
from notifications.webhooks.urls import check_url, parse_target

REGISTRATION_LOOKUP_SECONDS = 2.0
MAX_LOOKUPS_AT_ONCE = 64
"""Threads that may stand in `getaddrinfo`, those included that nobody waits for any more."""

SocketAddress = tuple[str, int] | tuple[str, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Destination:
    """One address of a host, as a socket connects to it."""

    family: socket.AddressFamily
    socket_address: SocketAddress

    @property
    def address(self) -> Address:
        return peer_address(self.socket_address)


Lookup = Callable[[str, int, float], list[Destination]]
"""`(host, port, timeout in seconds) -> destinations`; raises LookupFailed."""


def resolve(host: str, port: int, allow: AllowList, *, lookup: Lookup, timeout_seconds: float) -> list[Destination]:
    """Find a host's addresses and check every one.

    One refused address refuses the host: an answer that mixes public and private addresses is what DNS
    rebinding looks like, and no honest host gives one.

    Args:
        host: a name in ASCII, or an address without brackets.
        port: to connect to.
        allow: what the operator lets through; the addresses of a name that it names aren't judged.
        lookup: who knows the addresses.
        timeout_seconds: how long to wait for name servers.

    Returns:
        The destinations in the resolver's order, at least one.

    Raises:
        AddressRefused: an address is neither public nor allowed.
        LookupFailed: there is no address, or no answer in time.
    """
    destinations = lookup(host, port, timeout_seconds)
    if not destinations:
        raise LookupFailed("The URL's host has no address. Check its spelling.")
    if not allow.allows_host(host, port):
        for destination in destinations:
            check_address(destination.address, port, allow)
    return destinations


def check_registration(url: str, allow: AllowList, *, lookup: Lookup | None = None) -> None:
    """Check a URL that a user gives: its form, and where its host leads at present.

    A name that can't be looked up passes: name servers fail, and each connection is checked anyway.

    Args:
        url: as the user wrote it.
        allow: what the operator lets through.
        lookup: who knows the addresses; the system's resolver if None. Takes up to 2 s.

    Raises:
        InvalidUrl: it is none that we can send to.
        AddressRefused: it leads to an address that is neither public nor allowed.
    """
    check_url(url, allow)
    target = parse_target(url)
    if target.address is not None or allow.allows_host(target.host, target.port):
        return
    try:
        resolve(
            target.host,
            target.port,
            allow,
            lookup=lookup or look_up,
            timeout_seconds=REGISTRATION_LOOKUP_SECONDS,
        )
    except LookupFailed:
        return


def look_up(host: str, port: int, timeout_seconds: float) -> list[Destination]:
    """Ask the system's resolver.

    `getaddrinfo` knows no timeout (10 s and more where a name server is dead), so a name is looked up by a
    thread of its own, which is left behind when time is over; the resolver ends it.

    Raises:
        LookupFailed: the name has no address.
        LookupTimedOut: no answer within `timeout_seconds`.
    """
    try:
        ip_address(host)
    except ValueError:
        return _look_up_name(host, port, timeout_seconds)
    return _ask_system(host, port, socket.AI_NUMERICHOST)


def peer_address(socket_address: SocketAddress) -> Address:
    """The address in what `getaddrinfo` and `getpeername` give, without an IPv6 zone."""
    return ip_address(socket_address[0].partition("%")[0])


_free_lookups = threading.BoundedSemaphore(MAX_LOOKUPS_AT_ONCE)


def _look_up_name(host: str, port: int, timeout_seconds: float) -> list[Destination]:
    give_up_at = time.monotonic() + timeout_seconds
    free_lookups = _free_lookups
    if not free_lookups.acquire(timeout=max(timeout_seconds, 0)):
        raise _timed_out()
    answer: Future[list[Destination]] = Future()

    def ask() -> None:
        try:
            answer.set_result(_ask_system(host, port, 0))
        except Exception as error:
            answer.set_exception(error)
        finally:
            free_lookups.release()

    try:
        threading.Thread(target=ask, name="webhook-lookup", daemon=True).start()
    except RuntimeError:  # the system has no thread left to give
        free_lookups.release()
        raise _timed_out() from None
    try:
        return answer.result(timeout=max(give_up_at - time.monotonic(), 0))
    except TimeoutError:
        raise _timed_out() from None


def _ask_system(host: str, port: int, flags: int) -> list[Destination]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):
        raise LookupFailed("The URL's host has no address. Check its spelling and its DNS records.") from None
    return [
        # The narrower families of address that typeshed names too are those of a Python built without IPv6.
        Destination(family=family, socket_address=socket_address)  # type: ignore[arg-type]
        for family, _, _, _, socket_address in found
        if family in (socket.AF_INET, socket.AF_INET6)
    ]


def _timed_out() -> LookupTimedOut:
    return LookupTimedOut("The name servers of the URL's host didn't answer in time. Check its DNS records.")
