"""Which URLs a webhook may have, and their one reading.

The sender connects to what `parse_target` made of a URL and reads no URL a second time: where a checker and a
client read one URL differently, the client goes elsewhere than the checker looked.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import SplitResult, quote, urlsplit

import idna

from notifications.webhooks.addresses import Address, AllowList, check_address
from notifications.webhooks.failures import AddressRefused, InvalidUrl

MAX_URL_LENGTH = 2048

_DEFAULT_PORTS = {"http": 80, "https": 443}
# The underscore is in no host name of RFC 1123, but in many that Docker and Kubernetes give.
_HOST_NAME = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
# Where the last label is a number, resolvers read the whole as an IPv4 address, in the many spellings of
# inet_aton (WHATWG URL, "ends in a number checker").
_NUMERIC_HOST = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
# All that RFC 3986 gives a meaning in a path or query, and "%", because what is encoded already stays so.
_KEPT_IN_PATH = "%/:@!$&'()*+,;=-._~"
_KEPT_IN_QUERY = _KEPT_IN_PATH + "?"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL, read."""

    scheme: str
    """`http` or `https`."""
    host: str
    """A name in ASCII and small letters, or an address; IPv6 without brackets."""
    port: int
    path: str
    """Path and query as they are sent, in ASCII."""
    address: Address | None
    """The host's address, if the URL names one instead of a name."""

    @property
    def url(self) -> str:
        """The URL in ASCII, in its one spelling."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def check_url(url: str, allow: AllowList) -> None:
    """Refuse a URL that no webhook may have, without asking a name server.

    A name is judged by where it leads at each connection (`lookup.resolve`), and at registration, as far as a
    name server answers, by `lookup.check_registration`.

    Args:
        url: as the user wrote it.
        allow: what the operator lets through.

    Raises:
        InvalidUrl: it is none that we can send to; the text tells the user what to change.
        AddressRefused: it names an address, or this machine, that is neither public nor allowed.
    """
    target = parse_target(url)
    if allow.allows_host(target.host, target.port):
        return
    if target.address is not None:
        check_address(target.address, target.port, allow)
    elif _is_this_machine(target.host) and not allow.allows_address(ipaddress.IPv4Address("127.0.0.1"), target.port):
        raise AddressRefused(
            "This URL leads to the machine that Kabar runs on. Use a host with a public address, or ask the "
            "operator to name the host in KABAR_WEBHOOK_ALLOW_HOSTS."
        )


@lru_cache(maxsize=1024)
def parse_target(url: str) -> Target:
    """Read a URL strictly: what two readers could read differently is refused.

    Raises:
        InvalidUrl: the text tells the user what to change.
    """
    if len(url) > MAX_URL_LENGTH:
        raise InvalidUrl(f"The URL is longer than {MAX_URL_LENGTH:,} characters. Use a shorter one.")
    # `isprintable` is false for control and format characters, lone surrogates and white space but the blank.
    if not url.isprintable() or " " in url or "\\" in url:
        raise InvalidUrl(
            "The URL has a blank, a backslash or an invisible character in it. Percent-encode or remove it."
        )
    if "#" in url:
        raise InvalidUrl("The URL has a fragment (#…), which never reaches a server. Leave it out.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidUrl(
            "The URL can't be read. Check its host, and that its port is a number from 1 to 65535."
        ) from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidUrl("The URL must begin with https:// or http://.")
    if "@" in parts.netloc:
        raise InvalidUrl("The URL carries a user name or password. Leave it out, and check the signatures instead.")
    if port == 0:
        raise InvalidUrl("The URL's port is 0. Use one from 1 to 65535.")
    host, address = _read_host(parts)
    target = Target(
        scheme=parts.scheme,
        host=host,
        port=port or _DEFAULT_PORTS[parts.scheme],
        path=quote(parts.path or "/", safe=_KEPT_IN_PATH)
        + (f"?{quote(parts.query, safe=_KEPT_IN_QUERY)}" if parts.query else ""),
        address=address,
    )
    if len(target.url) > MAX_URL_LENGTH:
        raise InvalidUrl(f"Percent-encoded, the URL is longer than {MAX_URL_LENGTH:,} characters. Use a shorter one.")
    return target


def _read_host(parts: SplitResult) -> tuple[str, Address | None]:
    host = parts.hostname or ""
    if not host:
        raise InvalidUrl("The URL names no host. Write it as https://host.example/path.")
    if "[" in parts.netloc or "]" in parts.netloc:
        # A zone id (fe80::1%eth0) names an interface of this machine: nothing public has one.
        if "%" in host or not re.fullmatch(r"\[[^\[\]]*\](?::[0-9]*)?", parts.netloc):
            raise InvalidUrl("The URL's IPv6 address can't be read. Write it as https://[2606:4700::1111]/path.")
        try:
            address: Address = ipaddress.IPv6Address(host)
        except ValueError:
            raise InvalidUrl(
                "The URL's IPv6 address can't be read. Write it as https://[2606:4700::1111]/path."
            ) from None
        return str(address), address
    if not host.isascii():
        host = _to_ascii(host)
    if _NUMERIC_HOST.fullmatch(host):
        try:
            address = ipaddress.IPv4Address(host)
        except ValueError:
            raise InvalidUrl(
                "The URL's host looks like an IPv4 address in an unusual spelling. Write it as four decimal "
                "numbers, such as 93.184.215.14."
            ) from None
        return str(address), address
    if not _HOST_NAME.fullmatch(host):
        raise InvalidUrl("The URL's host is no host name. Use letters, digits, hyphens and dots.")
    return host, None


def _to_ascii(host: str) -> str:
    """An international name in the form that name servers know (IDNA 2008, mapped as UTS #46 has it)."""
    try:
        return idna.encode(host, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        raise InvalidUrl("The URL's host is no international host name. Check its spelling.") from None


def _is_this_machine(host: str) -> bool:
    """`localhost` and every name below it (RFC 6761 §6.3)."""
    name = host.rstrip(".")
    return name == "localhost" or name.endswith(".localhost")
