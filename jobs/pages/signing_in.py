"""Signing in, with growing pauses for whoever guesses (OWASP Authentication Cheat Sheet, "Login Throttling").

Failures are counted per user name at an address, and per address; a name alone is never locked, or a stranger could
keep its owner out. A name that is guessed at from many addresses leaves each new one fewer tries. A try counts as
failed until it has succeeded, so that many at once are no way round. Where Redis is away nobody is held up (`tally`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from hashlib import sha256
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from math import ceil

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from jobs import tally

REMEMBERED_SECONDS = 3600.0
"""Failures are forgotten so long after the last one."""
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 900.0
FREE_TRIES = 5
"""Of one name at one address, before the first pause."""
FREE_TRIES_OF_GUESSED = 1
"""The same, of a name that is guessed at from many addresses."""
GUESSED_FAILURES = 50
FREE_TRIES_OF_ADDRESS = 20
"""Of all names at one address."""

View = Callable[..., HttpResponseBase]


@dataclass(frozen=True, kw_only=True)
class Try:
    """One try to sign in."""

    name: str
    address: str | None
    """None where it isn't known: then only the name and whatever stands in front are told apart."""

    @property
    def pair(self) -> str:
        return f"signin:{_digest(self.name)}:{_digest(self.address or '')}"

    @property
    def of_name(self) -> str:
        return f"signin:name:{_digest(self.name)}"

    @property
    def of_address(self) -> str | None:
        return f"signin:address:{_digest(self.address)}" if self.address else None

    def begin(self) -> float:
        """Count it as failed; gives the seconds to wait where it mustn't be made."""
        keys = [self.pair, self.of_name, *filter(None, [self.of_address])]
        counts = tally.add(dict.fromkeys(keys, 1), REMEMBERED_SECONDS)
        if counts is None:
            return 0.0
        of_pair, of_name, *of_address = counts
        free = FREE_TRIES_OF_GUESSED if of_name > GUESSED_FAILURES else FREE_TRIES
        wait = _wait(self.pair, of_pair - free)
        if not wait and self.of_address:
            wait = _wait(self.of_address, of_address[0] - FREE_TRIES_OF_ADDRESS)
        if wait:
            tally.add(dict.fromkeys(keys, -1), REMEMBERED_SECONDS)  # it isn't made, so it hasn't failed
        return wait

    def succeed(self) -> None:
        """Forget the failures of this name at this address; those of others at the address stay."""
        tally.forget(self.pair, f"{self.pair}:pause")
        keys = [self.of_name, *filter(None, [self.of_address])]
        tally.add(dict.fromkeys(keys, -1), REMEMBERED_SECONDS)


def _wait(key: str, failures_too_many: int) -> float:
    """Begin a pause, unless there is one: then give the seconds that are left of it."""
    pause = pause_after(failures_too_many)
    return (tally.bar(f"{key}:pause", pause) or 0.0) if pause else 0.0


def pause_after(failures: int) -> float:
    """Say how long to pause after so many failures too many: 2 s, 4 s, 8 s … a quarter of an hour."""
    if failures <= 0:
        return 0.0
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE_SECONDS)


def limited(view: View) -> View:
    """Limit how often a sign-in form may be tried."""

    @wraps(view)
    @never_cache
    def limited_view(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        if request.method != "POST":
            return view(request, *args, **kwargs)
        this = Try(name=request.POST.get("username", "").casefold(), address=address_of(request))
        if wait := this.begin():
            return paused(request, ceil(wait))
        response = view(request, *args, **kwargs)
        if response.status_code == HTTPStatus.FOUND:
            this.succeed()
        return response

    return limited_view


def paused(request: HttpRequest, seconds: int) -> HttpResponseBase:
    """Answer a try that comes too early."""
    response = render(request, "signin_paused.html", {"seconds": seconds}, status=HTTPStatus.TOO_MANY_REQUESTS)
    response["Retry-After"] = str(seconds)
    return response


def address_of(request: HttpRequest) -> str | None:
    """Tell where a request comes from: behind a proxy, what that one appended to `X-Forwarded-For`.

    Of IPv6 it is the network of 64 bits, which one household has to itself.
    """
    text: str = request.META.get("REMOTE_ADDR", "")
    if settings.SECURE_PROXY_SSL_HEADER:
        text = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
    return str(address)


def _digest(text: str) -> str:
    """Name something in Redis without saying it: people type passwords into the field for the name."""
    return sha256(f"{settings.SECRET_KEY}:{text}".encode()).hexdigest()[:32]
