"""Where webhooks may go: checks a URL that a user gives, and finds its endpoint."""

from __future__ import annotations

from functools import cache

from django.conf import settings

from notifications.models import Endpoint
from notifications.webhooks.addresses import AllowList
from notifications.webhooks.lookup import check_registration
from notifications.webhooks.urls import parse_target


def allow_list() -> AllowList:
    """Give the operator's list of hosts that are let through though they aren't public."""
    return _parsed(settings.WEBHOOK_ALLOW_HOSTS)


@cache
def _parsed(text: str) -> AllowList:
    return AllowList.parse(text)


def check(url: str) -> None:
    """Check a URL that a user gives.

    Raises:
        InvalidUrl: it is none that we can send to.
        AddressRefused: it leads to an address that is neither public nor allowed.
    """
    check_registration(url, allow_list())


def endpoint_for(user_id: int, url: str) -> Endpoint:
    """Find or make the endpoint of a checked URL: one a user and host."""
    target = parse_target(url)
    host = f"{target.scheme}://{target.host}:{target.port}"
    return Endpoint.objects.get_or_create(user_id=user_id, host=host)[0]
