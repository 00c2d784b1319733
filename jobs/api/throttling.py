"""How many requests a user may make: reads and all else apart, in fixed windows, told by the RateLimit fields.

The fields are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy: "submit";q=600;w=60` says the rule,
`RateLimit: "submit";r=599;t=42` what is left of it and for how long. Off unless `KABAR_SUBMIT_RATE` or
`KABAR_READ_RATE` is set; where Redis is away, nobody is held up (`tally`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from jobs import tally
from jobs.api.waiting import is_asked_again
from jobs.rates import Rate

if TYPE_CHECKING:
    from rest_framework.views import APIView

_KEPT = "_kabar_standing"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a user stands with a rate."""

    policy: str
    rate: Rate
    count: int
    reset_seconds: float

    @property
    def is_over(self) -> bool:
        return self.count > self.rate.quota

    def write_to(self, response: HttpResponseBase) -> None:
        """Say it in the RateLimit fields."""
        left = max(0, self.rate.quota - self.count)
        response["RateLimit-Policy"] = f'"{self.policy}";q={self.rate.quota};w={self.rate.window_seconds}'
        response["RateLimit"] = f'"{self.policy}";r={left};t={ceil(self.reset_seconds)}'


class UserThrottle(BaseThrottle):
    """Counts a user's requests."""

    def __init__(self) -> None:
        self._standing: Standing | None = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Count this one, and tell whether it is within the rate; one that is held and asked again counts once."""
        policy = "read" if request.method in SAFE_METHODS else "submit"
        rate: Rate | None = settings.READ_RATE if policy == "read" else settings.SUBMIT_RATE
        if rate is None or not request.user.is_authenticated:
            return True
        is_again = is_asked_again(request._request)
        standing = standing_of(request.user.pk, policy, rate, 0 if is_again else 1)
        if standing is None:
            return True
        self._standing = standing
        setattr(request._request, _KEPT, standing)
        return is_again or not standing.is_over

    def wait(self) -> float | None:
        """Say in how many seconds the window ends."""
        return self._standing.reset_seconds if self._standing else None


def standing_of(user_id: int, policy: str, rate: Rate, amount: int) -> Standing | None:
    """Count requests of a user, and tell where the user stands; None where Redis is away.

    Users' windows begin at different times, or all who wait would come back in the same second.
    """
    window = rate.window_seconds
    now = time.time() + (user_id * 0.618034 % 1) * window
    reset_seconds = window - now % window
    counts = tally.add({f"rate:{policy}:{user_id}:{int(now // window)}": amount}, reset_seconds + 1)
    if counts is None:
        return None
    return Standing(policy=policy, rate=rate, count=counts[0], reset_seconds=reset_seconds)


def write_standing(request: HttpRequest, response: HttpResponseBase) -> None:
    """Say in an answer where its user stands, if that was counted."""
    standing: Standing | None = getattr(request, _KEPT, None)
    if standing:
        standing.write_to(response)
