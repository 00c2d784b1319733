"""Which addresses a webhook may be sent to: public ones, and those that the operator let through.

The table is our own because `ipaddress.is_global` differs between the Python versions that we support, and
because it passes several ways to reach a private address (`::127.0.0.1`, `fec0::1`, `64:ff9b:1::a00:1`,
`192.88.99.1`) and Azure's metadata service.
Sources: the IANA special-purpose address registries (RFC 6890, RFC 8190) and the IANA IPv6 address space,
whose only global unicast block is 2000::/3 (RFC 4291 §2.4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from notifications.webhooks.failures import AddressRefused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_REFUSED_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches the machine itself
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # shared address space (RFC 6598), and Alibaba's metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's wire server and metadata: a public number, answered inside the cloud
        "169.254.0.0/16",  # link-local, and most clouds' metadata at 169.254.169.254
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # protocol assignments (RFC 6890), and Oracle's metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.31.196.0/24",  # AS112 sinks (RFC 7535): they answer DNS only
        "192.52.193.0/24",  # multicast tunnelling (RFC 7450)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "192.175.48.0/24",  # AS112 sinks (RFC 7534)
        "198.18.0.0/15",  # benchmarking (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the limited broadcast
    )
)

_GLOBAL_IPV6 = IPv6Network("2000::/3")

_REFUSED_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments (RFC 2928): Teredo, benchmarking, ORCHID and their like
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4 (RFC 3056): a tunnel to the IPv4 address inside
        "2620:4f:8000::/48",  # AS112 sinks (RFC 7534)
        "3ffe::/16",  # the 6bone, given back (RFC 3701)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1: the last 32 bits are the IPv4 address that is reached


def embedded_ipv4(address: Address) -> Address:
    """Where a connection to an IPv4-mapped or NAT64 address ends; every other address as it is."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


@lru_cache(maxsize=4096)
def is_public(address: Address) -> bool:
    """Whether the address belongs to the public internet, so that anybody may have webhooks sent there."""
    address = embedded_ipv4(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_IPV4)
    return address in _GLOBAL_IPV6 and not any(address in network for network in _REFUSED_IPV6)


class InvalidAllowList(ValueError):
    """An entry of KABAR_WEBHOOK_ALLOW_HOSTS can't be understood; the text says which and how to write it."""


@dataclass(frozen=True, kw_only=True)
class AllowRule:
    """One entry of the allow list."""

    network: Network | None = None
    """Addresses that are let through, whatever name led to them."""
    host: str | None = None
    """A name that is let through, wherever it leads; `*.` at the front stands for every name below."""
    port: int | None = None
    """The only port that the rule holds for; None for every port."""

    def covers_host(self, host: str, port: int) -> bool:
        if self.host is None or self.port not in (None, port):
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return host == self.host

    def covers_address(self, address: Address, port: int) -> bool:
        if self.network is None or self.port not in (None, port):
            return False
        # `in` is false between versions, so both spellings of an embedded address are asked for.
        return address in self.network or embedded_ipv4(address) in self.network


@dataclass(frozen=True)
class AllowList:
    """The hosts, addresses and networks that the operator lets through although they aren't public."""

    rules: tuple[AllowRule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowList:
        """Read `KABAR_WEBHOOK_ALLOW_HOSTS`.

        Args:
            text: entries with commas between: `hooks.internal`, `*.example.internal` (every name below,
                not itself), `10.0.0.0/8`, `::1`; for one port only `127.0.0.1:9000`, `[::1]:9000`.

        Raises:
            InvalidAllowList: an entry is none of these.
        """
        entries = (entry.strip() for entry in text.split(","))
        return cls(tuple(_parse_rule(entry) for entry in entries if entry))

    def allows_host(self, host: str, port: int) -> bool:
        """Whether the name itself is let through, so that its addresses aren't judged."""
        name = host.lower().rstrip(".")
        return any(rule.covers_host(name, port) for rule in self.rules)

    def allows_address(self, address: Address, port: int) -> bool:
        """Whether a rule lets the address through."""
        return any(rule.covers_address(address, port) for rule in self.rules)


def check_address(address: Address, port: int, allow: AllowList) -> None:
    """Refuse an address that is neither public nor allowed.

    Raises:
        AddressRefused: it leads where webhooks don't go.
    """
    if not is_public(address) and not allow.allows_address(address, port):
        raise AddressRefused(
            "This URL leads to a private or special address. Use a host with a public address, or ask the "
            "operator to name the host in KABAR_WEBHOOK_ALLOW_HOSTS."
        )


_RULE_HOST = re.compile(r"(?:\*\.)?[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_RULE_WITH_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*):(?P<port>[0-9]{1,5})")


def _parse_rule(entry: str) -> AllowRule:
    host, port = entry, None
    if with_port := _RULE_WITH_PORT.fullmatch(entry):
        host, port = with_port["host"], int(with_port["port"])
        if not 1 <= port <= 65535:
            raise InvalidAllowList(f"KABAR_WEBHOOK_ALLOW_HOSTS: the port of {entry!r} isn't one from 1 to 65535.")
    try:
        return AllowRule(network=_parse_network(host), port=port)
    except ValueError as error:
        if "/" in host or ":" in host or host.replace(".", "").isdigit():
            raise InvalidAllowList(
                f"KABAR_WEBHOOK_ALLOW_HOSTS: {entry!r} is no address or network ({error}). "
                "Write networks as 10.0.0.0/8, and host names without scheme and path."
            ) from None
    name = host.lower().rstrip(".")
    if not _RULE_HOST.fullmatch(name):
        raise InvalidAllowList(
            f"KABAR_WEBHOOK_ALLOW_HOSTS: {entry!r} is no host name. Write hooks.internal or "
            "*.example.internal (international names in their xn-- form)."
        )
    return AllowRule(host=name, port=port)


def _parse_network(text: str) -> Network:
    """Raises: ValueError."""
    text = text.removeprefix("[").removesuffix("]")
    if "/" in text:
        return ip_network(text)
    return ip_network(embedded_ipv4(ip_address(text)))
